#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Makes an ARM template (languageVersion 1.0) from a Bicep file, for machines without the Bicep compiler. It knows the part of the
// language that main.bicep uses and stops at anything else, naming the line: what it prints is meant to equal what `bicep build`
// prints, apart from "metadata" and the order of keys and of dependsOn.
//
// usage: generate.js FILE.bicep            prints the template
//        generate.js FILE.bicep -o OUT     writes it
//        generate.js FILE.bicep --check OUT    exit 1 unless OUT has exactly these bytes
'use strict';
const fs = require('fs');
const path = require('path');

// make deps installs the two packages here, at the versions in package-lock.json.
const packages = require('module').createRequire(path.resolve(__dirname, '../build/npm-arm/index.js'));

const TYPES = { string: 'string', int: 'int', bool: 'bool', object: 'object', array: 'array' };
const SECURE = { string: 'securestring', object: 'secureobject' };
const DECORATORS = ['allowed', 'description', 'maxLength', 'maxValue', 'minLength', 'minValue', 'secure'];
const BINARY = { '==': 'equals', '&&': 'and', '||': 'or', '>': 'greater', '<': 'less', '>=': 'greaterOrEquals', '<=': 'lessOrEquals' };
// Same name and meaning in Bicep and in ARM. newGuid is for defaults of parameters only, as there.
const FUNCTIONS = ['base64', 'concat', 'contains', 'empty', 'format', 'guid', 'join', 'newGuid', 'replace', 'resourceGroup', 'resourceId',
    'startsWith', 'string', 'subscriptionResourceId', 'toLower', 'union', 'uniqueString', 'uriComponent'];
const ESCAPES = { n: '\n', r: '\r', t: '\t', "'": "'", '\\': '\\', $: '$' };
const RESOURCE_KEYS = ['name', 'location', 'tags', 'plan', 'sku', 'kind', 'zones', 'identity', 'properties'];

class Refused extends Error {}

function refuse(node, what) {
    const { row, column } = node.startPosition;
    throw new Refused(`line ${row + 1}, column ${column + 1}: ${what}`);
}

// Intermediate values: {lit} a constant, {obj: [[key, value]...]}, {arr: [value...]}, {expr} the text of an ARM expression.
const lit = (v) => ({ lit: v });
const expr = (text) => ({ expr: text });
const quote = (s) => `'${s.replace(/'/g, "''")}'`;

function toExpr(v) {
    if ('expr' in v)
        return v.expr;
    if ('arr' in v)
        return `createArray(${v.arr.map(toExpr).join(', ')})`;
    if ('obj' in v)
        return `createObject(${v.obj.map(([k, e]) => `${quote(k)}, ${toExpr(e)}`).join(', ')})`;
    if (typeof v.lit === 'string')
        return quote(v.lit);
    return typeof v.lit === 'number' ? String(v.lit) : `${v.lit}()`;
}

function toJson(v) {
    if ('expr' in v)
        return `[${v.expr}]`;
    if ('arr' in v)
        return v.arr.map(toJson);
    if ('obj' in v)
        return Object.fromEntries(v.obj.map(([k, e]) => [k, toJson(e)]));
    // A constant must not be taken for an expression.
    return typeof v.lit === 'string' && v.lit.startsWith('[') ? `[${v.lit}` : v.lit;
}

function unescape(node, raw) {
    return raw.replace(/\\(u\{([0-9a-fA-F]{1,6})\}|.|$)/gs, (all, what, hex) => {
        if (hex)
            return String.fromCodePoint(parseInt(hex, 16));
        if (!(what in ESCAPES))
            refuse(node, `unknown escape ${all}`);
        return ESCAPES[what];
    });
}

class Generator {
    constructor(source) {
        this.source = source;
        this.symbols = new Map(); // name -> {kind: param | var | resource | output, ...}
        this.template = {
            $schema: 'https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#',
            contentVersion: '1.0.0.0',
            metadata: { _generator: { name: 'bicep/generate.js' } },
            parameters: {}, variables: {}, resources: [], outputs: {},
        };
    }

    // ---- declarations ----

    run() {
        const Parser = packages('tree-sitter');
        const parser = new Parser();
        const bad = this.source.search(/[^\n\x20-\x7e]/);
        if (bad >= 0)
            throw new Refused(`line ${this.source.slice(0, bad).split('\n').length}: only printable ASCII and newlines`);
        parser.setLanguage(packages('tree-sitter-bicep'));
        const root = parser.parse(this.source, null, { bufferSize: 1 << 20 }).rootNode;
        if (root.hasError)
            refuse(this.firstError(root), 'does not parse');
        this.declare(root);
        for (const [name, s] of this.symbols)
            this[s.kind](name, s);
        for (const part of ['variables', 'outputs'])
            if (Object.keys(this.template[part]).length === 0)
                delete this.template[part];
        return this.template;
    }

    firstError(node) {
        for (const c of node.children)
            if (c.hasError || c.isMissing)
                return this.firstError(c);
        return node;
    }

    // First all names, so that order does not matter, as in Bicep.
    declare(root) {
        const kinds = { parameter_declaration: 'param', variable_declaration: 'var', resource_declaration: 'resource',
            output_declaration: 'output' };
        let decorators = [];

        for (const node of root.namedChildren) {
            if (node.type === 'comment' || node.type === 'diagnostic_comment')
                continue;
            if (node.type === 'decorators') {
                decorators = node.namedChildren;
                continue;
            }
            const kind = kinds[node.type];
            if (!kind)
                refuse(node, `${node.type} is not supported`);
            const name = node.namedChild(0).text, key = kind === 'output' ? `output ${name}` : name;
            if (this.symbols.has(key))
                refuse(node, `${name} is declared twice`);
            this.symbols.set(key, { kind, node, decorators: this.decorate(kind, decorators) });
            decorators = [];
        }
    }

    decorate(kind, nodes) {
        const found = {};

        for (const d of nodes) {
            const call = d.namedChild(0);
            const name = call.type === 'call_expression' ? call.namedChild(0).text : '';
            const args = call.type === 'call_expression' ? this.arguments(call.namedChild(1)) : [];
            if (!DECORATORS.includes(name) || (kind !== 'param' && (kind !== 'output' || name !== 'description')))
                refuse(d, `decorator @${name || call.text} is not supported on a ${kind}`);
            if (args.length !== (name === 'secure' ? 0 : 1))
                refuse(d, `@${name}: wrong number of arguments`);
            found[name] = args.length ? toJson(args[0]) : true;
        }
        return found;
    }

    typeOf(node) {
        const type = node.namedChildren.find((c) => c.type === 'type');
        if (!type || !(type.text in TYPES))
            refuse(node, `type ${type ? type.text : '(none)'} is not supported: it would need languageVersion 2.0 or is unknown`);
        return type.text;
    }

    // What stands behind "=", or null.
    valueOf(node) {
        const at = node.children.findIndex((c) => c.type === '=');
        return at < 0 ? null : node.children[at + 1];
    }

    param(name, s) {
        const type = this.typeOf(s.node), d = s.decorators, value = this.valueOf(s.node);
        if (d.secure && !SECURE[type])
            refuse(s.node, '@secure() is for strings and objects');
        const p = { type: d.secure ? SECURE[type] : TYPES[type] };
        if (value)
            p.defaultValue = toJson(this.value(value, { where: 'parameter default', newGuid: true, params: true }));
        for (const [from, to] of [['allowed', 'allowedValues'], ['minLength'], ['maxLength'], ['minValue'], ['maxValue']])
            if (from in d)
                p[to || from] = d[from];
        if ('description' in d)
            p.metadata = { description: d.description };
        this.template.parameters[name] = p;
    }

    // A variable's resources count as those of whoever uses the variable.
    variable(s) {
        if (!s.ready) {
            if (s.busy)
                refuse(s.node, 'variable refers to itself');
            s.busy = true;
            s.uses = new Set();
            s.ready = this.value(this.valueOf(s.node), { where: 'variable', uses: s.uses });
        }
        return s;
    }

    var(name, s) {
        this.template.variables[name] = toJson(this.variable(s).ready);
    }

    output(name, s) {
        const o = { type: this.typeOf(s.node) };
        if (s.decorators.description)
            o.metadata = { description: s.decorators.description };
        o.value = toJson(this.value(this.valueOf(s.node), { where: 'output', runtime: true, uses: new Set() }));
        this.template.outputs[name.replace(/^output /, '')] = o;
    }

    // Type, version, name and condition of a resource; its body is read in resource() below.
    head(s) {
        if (s.head)
            return s.head;
        const node = s.node, spec = node.namedChildren.find((c) => c.type === 'string').text;
        const m = /^'([A-Za-z0-9.]+\/[A-Za-z0-9]+)@(\d{4}-\d{2}-\d{2})'$/.exec(spec);
        if (!m)
            refuse(node, `${spec}: only Provider/type@yyyy-mm-dd, no child types, no preview versions`);
        if (node.children.some((c) => c.type === 'existing'))
            refuse(node, 'existing resources are not supported');
        let body = this.valueOf(node), condition = null;
        if (body.type === 'if_statement') {
            condition = this.strip(body.namedChild(0));
            body = body.namedChild(1);
        }
        if (body.type !== 'object')
            refuse(body, `${body.type} as a resource is not supported`);
        s.head = { type: m[1], apiVersion: m[2], body, condition };
        const name = this.properties(body).find(([k]) => k === 'name');
        if (!name)
            refuse(body, 'the resource has no name');
        s.head.uses = new Set();
        s.head.name = this.value(name[1], { where: 'resource name', uses: s.head.uses });
        s.head.id = `resourceId(${quote(m[1])}, ${toExpr(s.head.name)})`;
        return s.head;
    }

    resource(name, s) {
        const h = this.head(s), uses = new Set(h.uses), at = { where: 'resource', uses, runtime: true };
        const r = {};
        if (h.condition)
            r.condition = toJson(this.value(h.condition, { where: 'condition', uses: new Set() }));
        Object.assign(r, { type: h.type, apiVersion: h.apiVersion });
        for (const [key, node] of this.properties(h.body)) {
            if (!RESOURCE_KEYS.includes(key))
                refuse(node, `property ${key} of a resource is not supported`);
            r[key] = key === 'name' ? toJson(h.name) : toJson(this.value(node, at));
        }
        uses.delete(name);
        if (uses.size)
            r.dependsOn = [...uses].sort().map((u) => `[${this.head(this.symbols.get(u)).id}]`);
        this.template.resources.push(r);
    }

    // ---- expressions; `at` says what is allowed in this place and collects the resources used ----

    // The parser gives some operators the wrong precedence: it reads `c ? a : b.x` as `(c ? a : b).x`. So what binds tighter than
    // its operand's operator must have that operand in parentheses; the source then has one reading only.
    tight(node, loose = ['ternary_expression', 'binary_expression', 'unary_expression']) {
        if (loose.includes(node.type))
            refuse(node, 'put this in parentheses, or the part after ":" or the operator if that is what is meant');
        return node;
    }

    strip(node) {
        return node.type === 'parenthesized_expression' ? this.strip(node.namedChild(0)) : node;
    }

    value(node, at) {
        switch (node.type) {
        case 'string':
            return this.string(node, at);
        case 'number':
            if (!/^\d+$/.test(node.text))
                refuse(node, 'negative numbers are not supported');
            return lit(Number(node.text));
        case 'boolean':
            return lit(node.text === 'true');
        case 'null':
            return lit(null);
        case 'object':
            return { obj: this.properties(node).map(([k, v]) => [k, this.value(v, at)]) };
        case 'array':
            return { arr: this.elements(node).map((e) => this.value(e, at)) };
        case 'parenthesized_expression':
            return this.value(this.strip(node), at);
        case 'identifier':
            return this.name(node, at);
        case 'member_expression':
        case 'subscript_expression':
            return this.access(node, at);
        case 'call_expression':
            return this.call(node, at);
        case 'ternary_expression': {
            this.tight(node.namedChild(0), ['ternary_expression']);
            const [c, yes, no] = node.namedChildren.map((n) => toExpr(this.value(n, at)));
            return expr(`if(${c}, ${yes}, ${no})`);
        }
        case 'unary_expression':
            if (node.child(0).type !== '!')
                refuse(node, `operator ${node.child(0).type} is not supported`);
            return expr(`not(${toExpr(this.value(this.tight(node.child(1)), at))})`);
        case 'binary_expression':
            return this.binary(node, at);
        default:
            return refuse(node, `${node.type} is not supported`);
        }
    }

    binary(node, at) {
        const [a, op, b] = [node.child(0), node.child(1).type, node.child(2)];
        for (const side of [a, b])
            this.tight(side, ['ternary_expression', 'binary_expression']);
        const [x, y] = [a, b].map((n) => toExpr(this.value(n, at)));
        if (op === '!=')
            return expr(`not(equals(${x}, ${y}))`);
        if (!(op in BINARY))
            refuse(node, `operator ${op} is not supported`);
        return expr(`${BINARY[op]}(${x}, ${y})`);
    }

    elements(node) {
        const items = node.namedChildren.filter((c) => c.type !== 'comment');
        for (const c of items)
            if (['for_statement', 'spread_expression'].includes(c.type))
                refuse(c, `${c.type} is not supported`);
        return items;
    }

    properties(node) {
        const seen = new Set();
        return this.elements(node).map((p) => {
            if (p.type !== 'object_property' || p.namedChildCount !== 2)
                refuse(p, `${p.type} in an object is not supported`);
            const k = p.namedChild(0), v = p.namedChild(1);
            const key = k.type === 'string' ? this.string(k, { where: 'key' }).lit : k.text;
            if (typeof key !== 'string' || !['string', 'identifier', 'property_identifier'].includes(k.type))
                refuse(k, 'a key must be a constant');
            if (seen.has(key.toLowerCase()))
                refuse(k, `key ${key} stands twice`);
            seen.add(key.toLowerCase());
            return [key, v];
        });
    }

    // Cut out of the source: the parser drops white space between two adjacent interpolations.
    string(node, at) {
        const multi = node.child(0).type === "'''";
        const marks = node.namedChildren.filter((c) => c.type === 'interpolation');
        let pos = node.startIndex + (multi ? 3 : 1);
        const end = node.endIndex - (multi ? 3 : 1);

        if (multi)
            return lit(this.source.slice(pos, end).replace(/^\n/, ''));
        if (!marks.length)
            return lit(unescape(node, this.source.slice(pos, end)));
        let text = '';
        const args = [];
        const constant = (s) => unescape(node, s).replace(/[{}]/g, '$&$&');
        for (const m of marks) {
            const start = this.source.lastIndexOf('${', m.namedChild(0).startIndex);
            text += `${constant(this.source.slice(pos, start))}{${args.length}}`;
            args.push(toExpr(this.value(m.namedChild(0), at)));
            pos = m.endIndex;
        }
        text += constant(this.source.slice(pos, end));
        return expr(`format(${[quote(text), ...args].join(', ')})`);
    }

    lookup(node) {
        const s = this.symbols.get(node.text);
        if (!s)
            refuse(node, `${node.text} is not declared`);
        return s;
    }

    name(node, at) {
        const s = this.lookup(node);
        if (at.where === 'parameter default' && s.kind !== 'param')
            refuse(node, 'a parameter\'s default may use other parameters only');
        if (s.kind === 'param')
            return expr(`parameters(${quote(node.text)})`);
        if (s.kind !== 'var')
            refuse(node, `a ${s.kind} as a value is not supported: name a property of it`);
        for (const u of this.variable(s).uses)
            at.uses.add(u);
        return expr(`variables(${quote(node.text)})`);
    }

    access(node, at) {
        const object = node.namedChild(0), rest = node.namedChild(1);
        if (node.namedChildCount !== 2 || node.children.some((c) => ['?', '!', '?.', '[?', '.?'].includes(c.type)))
            refuse(node, 'safe access is not supported');
        if (object.type === 'identifier' && this.lookup(object).kind === 'resource')
            return this.ofResource(node, object, rest, at);
        const base = this.value(this.tight(object), at);
        if (!('expr' in base))
            refuse(object, 'access to a part of a constant is not supported');
        if (node.type === 'member_expression')
            return expr(`${base.expr}.${rest.text}`);
        return expr(`${base.expr}[${toExpr(this.value(rest, at))}]`);
    }

    ofResource(node, object, rest, at) {
        const h = this.head(this.lookup(object));
        if (node.type !== 'member_expression')
            refuse(node, 'subscript of a resource is not supported');
        if (!at.uses)
            refuse(node, `a resource in a ${at.where} is not supported`);
        at.uses.add(object.text);
        switch (rest.text) {
        case 'id':
            return expr(h.id);
        case 'name':
            return h.name;
        default:
            if (!at.runtime)
                refuse(node, `.${rest.text} is known only at run time, which a ${at.where} is not: write it where it is needed`);
            if (rest.text === 'properties')
                return expr(`reference(${h.id}, ${quote(h.apiVersion)})`);
            return expr(`reference(${h.id}, ${quote(h.apiVersion)}, 'full').${rest.text}`);
        }
    }

    arguments(node) {
        return this.elements(node).map((a) => this.value(a, { where: 'decorator' }));
    }

    call(node, at) {
        const callee = node.namedChild(0), args = node.namedChild(1);
        if (callee.type !== 'identifier' || !FUNCTIONS.includes(callee.text))
            refuse(node, `function ${callee.text} is not supported`);
        if (callee.text === 'newGuid' && !at.newGuid)
            refuse(node, 'newGuid() is for defaults of parameters');
        const texts = this.elements(args).map((a) => toExpr(this.value(a, at)));
        return expr(`${callee.text}(${texts.join(', ')})`);
    }
}

function generate(source) {
    return `${JSON.stringify(new Generator(source).run(), null, 2)}\n`;
}

function main(argv) {
    const [file, mode, out] = argv;
    if (!file || argv.length === 2 || argv.length > 3 || (mode && !['-o', '--check'].includes(mode))) {
        process.stderr.write('usage: generate.js FILE.bicep [-o OUT | --check OUT]\n');
        return 2;
    }
    let text;
    try {
        text = generate(fs.readFileSync(file, 'utf8'));
        if (!mode)
            process.stdout.write(text);
        else if (mode === '-o')
            fs.writeFileSync(out, text);
        else if (fs.readFileSync(out, 'utf8') !== text)
            throw new Refused(`${out} is not what it generates: run bicep/generate.js ${file} -o ${out}`);
    } catch (e) {
        if (!(e instanceof Refused) && !e.code)
            throw e;
        process.stderr.write(`generate.js: ${file}: ${e.message}\n`);
        return 1;
    }
    return 0;
}

if (require.main === module)
    process.exitCode = main(process.argv.slice(2));
