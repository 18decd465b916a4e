// SPDX-License-Identifier: Apache-2.0
// Evaluates an ARM template as a deployment would, as far as that goes without Azure: parameters are checked, conditions decided,
// expressions computed. What only a running deployment knows, reference(), stays a text such as <ID.path>. Knows the functions that
// generate.js writes; anything else is an error.
'use strict';
const crypto = require('crypto');

const SUBSCRIPTION = '/subscriptions/00000000-0000-0000-0000-000000000000';
const GROUP = `${SUBSCRIPTION}/resourceGroups/example`;

class TemplateError extends Error {}

function fail(what) {
    throw new TemplateError(what);
}

// A value known at run time only.
class Runtime {
    constructor(text) {
        this.text = text;
    }
    toString() {
        return `<${this.text}>`;
    }
}

// ---- the language: string or number literals, name(args), .member, [index] ----

function parse(text) {
    const tokens = text.match(/'(?:[^']|'')*'|[A-Za-z_$][A-Za-z0-9_$]*|\d+|[().,[\]]|\S/g) || [];
    let pos = 0;
    const take = (want) => tokens[pos++] === want || fail(`expression ${text}: ${want} expected`);

    function primary() {
        const t = tokens[pos++];
        if (t === undefined)
            fail(`expression ${text}: ends too early`);
        if (t[0] === "'")
            return { lit: t.slice(1, -1).replace(/''/g, "'") };
        if (/^\d+$/.test(t))
            return { lit: Number(t) };
        if (!/^[A-Za-z_$]/.test(t))
            fail(`expression ${text}: unexpected ${t}`);
        take('(');
        const args = [];
        while (tokens[pos] !== ')') {
            args.push(expression());
            if (tokens[pos] !== ')')
                take(',');
        }
        pos++;
        return { call: t, args };
    }

    function expression() {
        let e = primary();
        for (;;) {
            if (tokens[pos] === '.') {
                pos++;
                e = { of: e, index: { lit: tokens[pos++] } };
            } else if (tokens[pos] === '[') {
                pos++;
                e = { of: e, index: expression() };
                take(']');
            } else {
                return e;
            }
        }
    }

    const e = expression();
    return pos === tokens.length ? e : fail(`expression ${text}: ${tokens[pos]} is too much`);
}

function format(pattern, ...args) {
    return pattern.replace(/\{\{|\}\}|\{(\d+)\}|[{}]/g, (m, n) => {
        if (n !== undefined)
            return Number(n) < args.length ? String(args[n]) : fail(`format: no argument {${n}}`);
        return m.length === 2 ? m[0] : fail(`format: single ${m} in ${pattern}`);
    });
}

function resourceId(type, ...names) {
    const [provider, ...types] = type.split('/');
    if (types.length !== names.length)
        fail(`resourceId: ${types.length} names expected for ${type}`);
    return `${GROUP}/providers/${provider}${types.map((t, i) => `/${t}/${names[i]}`).join('')}`;
}

const isEmpty = (v) => v === null || v === '' || (typeof v === 'object' && Object.keys(v).length === 0);
const digest = (...args) => crypto.createHash('sha1').update(args.join('\0')).digest('hex');
const guid = (...args) => digest(...args).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, '$1-$2-$3-$4-$5');
const key = (o, name) => Object.keys(o).find((k) => k.toLowerCase() === String(name).toLowerCase());
const FUNCTIONS = {
    and: (...a) => a.every(Boolean),
    base64: (s) => Buffer.from(String(s)).toString('base64'),
    concat: (...a) => (Array.isArray(a[0]) ? [].concat(...a) : a.join('')),
    contains: (c, v) => (typeof c === 'string' || Array.isArray(c) ? c.includes(v) : key(c, v) !== undefined),
    createArray: (...a) => a,
    createObject: (...a) => Object.fromEntries(a.map((k, i) => [k, a[i + 1]]).filter((_, i) => i % 2 === 0)),
    empty: isEmpty,
    equals: (a, b) => JSON.stringify(a) === JSON.stringify(b),
    false: () => false,
    format,
    greater: (a, b) => a > b,
    greaterOrEquals: (a, b) => a >= b,
    guid,
    join: (a, s) => a.join(s),
    less: (a, b) => a < b,
    lessOrEquals: (a, b) => a <= b,
    not: (a) => !a,
    null: () => null,
    or: (...a) => a.some(Boolean),
    replace: (s, a, b) => s.split(a).join(b),
    resourceId,
    startsWith: (s, p) => s.toLowerCase().startsWith(p.toLowerCase()),
    string: (v) => (typeof v === 'string' ? v : JSON.stringify(v)),
    subscriptionResourceId: (type, name) => `${SUBSCRIPTION}/providers/${type}/${name}`,
    toLower: (s) => s.toLowerCase(),
    true: () => true,
    union: (...a) => Object.assign({}, ...a),
    uniqueString: (...a) => digest(...a).slice(0, 13),
    uriComponent: (s) => encodeURIComponent(s).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`),
};

class Deployment {
    // group: what resourceGroup() answers beside its id, name and location.
    constructor(template, parameters = {}, group = {}) {
        this.template = template;
        this.group = { id: GROUP, name: 'example', location: 'westeurope', ...group };
        this.parameters = {};
        this.variables = {};
        this.references = new Set();
        this.readParameters(parameters);
    }

    readParameters(given) {
        for (const name of Object.keys(given))
            if (!(name in this.template.parameters))
                fail(`parameter ${name}: the template has none of that name`);
        for (const [name, p] of Object.entries(this.template.parameters)) {
            if (!(name in given) && !('defaultValue' in p))
                fail(`parameter ${name}: not given`);
            const value = name in given ? given[name] : this.value(p.defaultValue, true);
            const type = Array.isArray(value) ? 'array' : { string: 'string', number: 'int', boolean: 'bool' }[typeof value] || 'object';
            const size = type === 'int' ? value : value.length;
            if (type !== p.type.replace('secure', ''))
                fail(`parameter ${name}: a ${p.type} is expected, not a ${type}`);
            if (p.allowedValues && !p.allowedValues.includes(value))
                fail(`parameter ${name}: ${value} is not allowed`);
            if (size < (p.minLength ?? p.minValue ?? -Infinity) || size > (p.maxLength ?? p.maxValue ?? Infinity))
                fail(`parameter ${name}: outside its limits`);
            this.parameters[name] = value;
        }
    }

    value(v, isDefault = false) {
        if (Array.isArray(v))
            return v.map((e) => this.value(e, isDefault));
        if (v && typeof v === 'object')
            return Object.fromEntries(Object.entries(v).map(([k, e]) => [k, this.value(e, isDefault)]));
        if (typeof v !== 'string' || !v.startsWith('['))
            return v;
        return v.startsWith('[[') ? v.slice(1) : this.compute(parse(v.slice(1, -1)), isDefault);
    }

    compute(e, isDefault) {
        if ('lit' in e)
            return e.lit;
        if (e.of) {
            const o = this.compute(e.of, isDefault), i = this.compute(e.index, isDefault);
            if (o instanceof Runtime)
                return new Runtime(`${o.text}.${i}`);
            const k = o && typeof o === 'object' ? (Array.isArray(o) ? i : key(o, i)) : undefined;
            return k !== undefined && k in o ? o[k] : fail(`no member ${i}`);
        }
        // Lazy, as in a deployment: the other branch may speak of a resource that is not there.
        if (e.call === 'if')
            return this.compute(e.args[this.compute(e.args[0], isDefault) ? 1 : 2], isDefault);
        const args = e.args.map((a) => this.compute(a, isDefault));
        switch (e.call) {
        case 'parameters':
            return args[0] in this.parameters ? this.parameters[args[0]] : fail(`parameter ${args[0]} is not known here`);
        case 'variables':
            if (!(args[0] in this.template.variables))
                fail(`no variable ${args[0]}`);
            this.variables[args[0]] ??= [this.value(this.template.variables[args[0]])];
            return this.variables[args[0]][0];
        case 'resourceGroup':
            return this.group;
        case 'newGuid':
            return isDefault ? guid('new') : fail('newGuid() outside a default');
        case 'reference':
            this.references.add(args[0]);
            return new Runtime(`${args[0]}${args[2] === 'full' ? ':full' : ''}`);
        default:
            return FUNCTIONS[e.call] ? FUNCTIONS[e.call](...args) : fail(`function ${e.call} is not known`);
        }
    }

    // The resources that would be deployed, and the outputs.
    run() {
        const all = this.template.resources.map((r) => ({ r, id: resourceId(r.type, this.value(r.name)),
            there: r.condition === undefined || this.value(r.condition) }));
        const there = new Set(all.filter((a) => a.there).map((a) => a.id)), known = new Set(all.map((a) => a.id));
        const resources = [];

        if (known.size !== all.length)
            fail('two resources of one type have one name');
        for (const { r, id } of all.filter((a) => a.there)) {
            this.references.clear();
            const done = clean(this.value(r)), depends = done.dependsOn || [];
            for (const d of depends)
                if (!known.has(d) || d === id)
                    fail(`${id}: depends on ${d === id ? 'itself' : `${d}, which the template does not have`}`);
            this.checkReferences(id, there, depends);
            resources.push(done);
        }
        this.references.clear();
        const outputs = Object.fromEntries(Object.entries(this.template.outputs || {}).map(([k, o]) => [k, clean(this.value(o.value))]));
        this.checkReferences('outputs', there);
        return { resources: order(resources), outputs };
    }

    checkReferences(who, there, depends) {
        for (const id of this.references)
            if (!there.has(id) || (depends && !depends.includes(id)))
                fail(`${who}: reference to ${id}, which ${there.has(id) ? 'it does not depend on' : 'is not deployed'}`);
    }
}

// As the service reads it: null is absent.
function clean(v) {
    if (v instanceof Runtime)
        return String(v);
    if (Array.isArray(v))
        return v.map(clean);
    if (v && typeof v === 'object')
        return Object.fromEntries(Object.entries(v).filter(([, e]) => e !== null).map(([k, e]) => [k, clean(e)]));
    return v;
}

// In an order in which they can be made.
function order(resources) {
    const left = new Map(resources.map((r) => [resourceId(r.type, r.name), r])), done = [];
    while (left.size) {
        const ready = [...left].filter(([, r]) => !(r.dependsOn || []).some((d) => left.has(d)));
        if (!ready.length)
            fail(`dependsOn goes in a circle: ${[...left.keys()].join(', ')}`);
        for (const [id, r] of ready) {
            done.push(r);
            left.delete(id);
        }
    }
    return done;
}

module.exports = { Deployment, TemplateError };
