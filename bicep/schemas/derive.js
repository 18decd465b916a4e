#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Makes the JSON Schemas in this folder from Microsoft's own client packages (MIT, see LICENSE): their mappers say of each resource
// of the REST API which properties it has, of what type, which are required and which only the service sets; their declarations
// say which words an enumeration knows. Run it again when main.bicep needs a new type or API version; see README.md.
//
// usage: derive.js FOLDER    FOLDER holds the packages of SOURCES, each unpacked as npm pack names it (azure-arm-compute-23.3.0 ...)
'use strict';
const fs = require('fs');
const path = require('path');

const SOURCES = [
    { package: 'azure-arm-compute-23.3.0', models: 'dist/commonjs/models', provider: 'Microsoft.Compute', apiVersion: '2025-04-01',
        resources: { virtualMachines: 'VirtualMachine', virtualMachineScaleSets: 'VirtualMachineScaleSet' } },
    { package: 'azure-arm-network-35.0.0', models: 'dist/commonjs/models', provider: 'Microsoft.Network', apiVersion: '2025-03-01',
        resources: { loadBalancers: 'LoadBalancer', natGateways: 'NatGateway', networkInterfaces: 'NetworkInterface',
            networkSecurityGroups: 'NetworkSecurityGroup', publicIPAddresses: 'PublicIPAddress', virtualNetworks: 'VirtualNetwork' } },
    { package: 'azure-arm-authorization-9.0.0', models: 'dist-esm/src/models', provider: 'Microsoft.Authorization',
        apiVersion: '2022-04-01',
        declarations: 'src/models/index.ts', resources: { roleAssignments: 'RoleAssignmentCreateParameters' } },
];

// Names and values of a package's string enumerations, and which property of which interface is of which of them.
function readDeclarations(text) {
    const words = {}, types = {}, base = {};
    for (const m of text.matchAll(/export (?:declare )?enum Known(\w+) \{(.*?)\n\}/gs))
        words[m[1]] = [...m[2].matchAll(/^\s+\w+ = "([^"]*)"/gm)].map((v) => v[1]);
    for (const m of text.matchAll(/export interface (\w+)(?:\s+extends ([\w,\s]+?))? \{(.*?)\n\}/gs)) {
        base[m[1]] = m[2] ? m[2].split(',').map((s) => s.trim()) : [];
        types[m[1]] = Object.fromEntries([...m[3].matchAll(/^\s+(?:readonly )?(\w+)\??: (\w+)(?:\[\])?;/gm)].map((p) => [p[1], p[2]]));
    }
    // An enumeration that the service goes on extending: the package knows only its first sizes.
    delete words.VirtualMachineSizeTypes;
    const typeOf = (cls, key) => types[cls] && (types[cls][key] || base[cls].map((b) => typeOf(b, key)).find(Boolean));
    return (cls, key) => words[typeOf(cls, key)];
}

function constraints(c = {}) {
    const names = { MinLength: 'minLength', MaxLength: 'maxLength', Pattern: 'pattern', InclusiveMinimum: 'minimum',
        InclusiveMaximum: 'maximum', MinItems: 'minItems', MaxItems: 'maxItems' };
    return Object.fromEntries(Object.entries(c).filter(([k]) => k in names)
        .map(([k, v]) => [names[k], v instanceof RegExp ? v.source : v]));
}

class Deriver {
    constructor(mappers, wordsOf) {
        this.wordsOf = wordsOf;
        this.byClass = new Map(Object.values(mappers).filter((m) => m && m.type && m.type.name === 'Composite')
            .map((m) => [m.type.className, m]));
        this.definitions = {};
    }

    type(t, words) {
        switch (t.name) {
        case 'Composite':
            if (!t.modelProperties || this.byClass.has(t.className)) {
                this.define(t.className);
                return { $ref: `#/definitions/${t.className}` };
            }
            return { type: 'object' };
        case 'Sequence':
            return { type: 'array', items: this.type(t.element.type, words) };
        case 'Dictionary':
            return { type: 'object', additionalProperties: this.type(t.value.type) };
        case 'Enum':
            return { enum: t.allowedValues };
        case 'String':
        case 'Uuid':
        case 'DateTime':
        case 'Date':
        case 'TimeSpan':
        case 'ByteArray':
        case 'Base64Url':
            return words ? { enum: words } : { type: 'string' };
        case 'Number':
            return { type: 'number' };
        case 'Boolean':
            return { type: 'boolean' };
        case 'any':
        case 'Object':
            return {};
        default:
            throw new Error(`unknown type ${t.name}`);
        }
    }

    // serializedName "properties.a" is a in the object properties. What only the service sets is left out, hence refused.
    define(cls) {
        if (cls in this.definitions)
            return;
        const mapper = this.byClass.get(cls), root = { type: 'object', properties: {}, additionalProperties: false };
        this.definitions[cls] = root;
        for (const [key, p] of Object.entries(mapper.type.modelProperties)) {
            if (p.readOnly)
                continue;
            const steps = p.serializedName.split(/(?<!\\)\./).map((s) => s.replace(/\\/g, '')), last = steps.pop();
            let at = root;
            for (const s of steps)
                at = at.properties[s] ||= { type: 'object', properties: {}, additionalProperties: false };
            at.properties[last] = { ...this.type(p.type, this.wordsOf(cls, key)), ...constraints(p.constraints) };
            if (p.required)
                (at.required ||= []).push(last);
        }
    }
}

function derive(source, folder) {
    const models = path.resolve(folder, source.package, source.models), file = path.join(models, 'mappers.js');
    // The older package is written as ES module, which this cannot require.
    const code = fs.readFileSync(file, 'utf8').replace(/^export (var|let|const) (\w+) =/gm, 'var $2 = exports.$2 =');
    const mappers = {};
    new Function('exports', code)(mappers);
    const declarations = fs.readFileSync(source.declarations ? path.resolve(folder, source.package, source.declarations)
        : path.join(models, 'index.d.ts'), 'utf8');
    const parameters = fs.readFileSync(path.join(models, 'parameters.js'), 'utf8');
    if (!parameters.includes(`defaultValue: "${source.apiVersion}"`))
        throw new Error(`${source.package} does not speak API version ${source.apiVersion}`);

    const deriver = new Deriver(mappers, readDeclarations(declarations));
    const resourceDefinitions = {};
    for (const [type, cls] of Object.entries(source.resources).sort()) {
        deriver.define(cls);
        const d = deriver.definitions[cls];
        resourceDefinitions[type] = { type: 'object', additionalProperties: false,
            required: ['type', 'apiVersion', 'name', ...(d.required || [])],
            properties: { type: { const: `${source.provider}/${type}` }, apiVersion: { const: source.apiVersion },
                name: { type: 'string', minLength: 1 }, condition: { type: 'boolean' }, dependsOn: { type: 'array', items: { type: 'string' } }, ...d.properties } };
    }
    const classes = Object.values(source.resources), text = JSON.stringify(deriver.definitions);
    const definitions = Object.fromEntries(Object.entries(deriver.definitions).sort()
        .filter(([c]) => !classes.includes(c) || text.includes(`"#/definitions/${c}"`)));
    // One definition a line: a change of API version is then readable as a diff.
    const lines = (o) => Object.entries(o).map(([k, v]) => `    ${JSON.stringify(k)}: ${JSON.stringify(v)}`).join(',\n');
    const origin = source.package.replace('azure-', '@azure/').replace(/-([\d.]+)$/, '@$1');
    return `{
  "$schema": "http://json-schema.org/draft-07/schema#",
  "$comment": "Derived by derive.js from npm's ${origin}, (c) Microsoft Corporation, MIT: see LICENSE",
  "resourceDefinitions": {\n${lines(resourceDefinitions)}\n  },
  "definitions": {\n${lines(definitions)}\n  }
}\n`;
}

if (require.main === module) {
    if (process.argv.length !== 3) {
        process.stderr.write('usage: derive.js FOLDER\n');
        process.exit(2);
    }
    // All of them before the first is written.
    const schemas = SOURCES.map((source) => [source.provider, derive(source, process.argv[2])]);
    for (const [provider, text] of schemas)
        fs.writeFileSync(path.join(__dirname, `${provider}.json`), text);
}

module.exports = { derive };
