#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Evaluates a template with parameters and checks every resource of the result against the JSON Schemas in schemas/.
//
// usage: validate.js TEMPLATE [PARAMETERS] [--managed-by ID] [--print]
// PARAMETERS is a file or - with an object of name and value, or a parameter file of ARM. --managed-by makes the resource group
// that of a Managed Application. --print prints resources and outputs instead of checking the resources. Exit status 1 with one
// line on stderr for each fault.
'use strict';
const fs = require('fs');
const path = require('path');
const { Deployment, TemplateError } = require('./evaluate.js');

const packages = require('module').createRequire(path.resolve(__dirname, '../build/npm-arm/index.js'));

function schemas() {
    const ajv = new (packages('ajv'))({ allErrors: true, strict: true, strictTypes: false });
    const known = {};
    for (const file of fs.readdirSync(path.join(__dirname, 'schemas')).filter((f) => f.endsWith('.json'))) {
        const provider = path.basename(file, '.json'), schema = JSON.parse(fs.readFileSync(path.join(__dirname, 'schemas', file), 'utf8'));
        ajv.addSchema({ $id: provider, definitions: { ...schema.definitions, ...prefixed(schema.resourceDefinitions) } });
        for (const type of Object.keys(schema.resourceDefinitions))
            known[`${provider}/${type}`] = `${provider}#/definitions/resource:${type}`;
    }
    return (type) => known[type] && ajv.getSchema(known[type]);
}

const prefixed = (o) => Object.fromEntries(Object.entries(o).map(([k, v]) => [`resource:${k}`, v]));

const detail = (p) => p.additionalProperty || p.allowedValues || p.allowedValue || '';

function validate(resources) {
    const checkOf = schemas(), faults = [];
    for (const r of resources) {
        const check = checkOf(r.type);
        if (!check)
            faults.push(`${r.type} ${r.name}: no schema for this type`);
        else if (!check(r))
            for (const e of check.errors)
                faults.push(`${r.type} ${r.name}${e.instancePath}: ${e.message} ${detail(e.params)}`.trim());
    }
    return faults;
}

function main(argv) {
    const flags = argv.filter((a) => a === '--print'), at = argv.indexOf('--managed-by');
    const group = at >= 0 ? { managedBy: argv.splice(at, 2)[1] } : {};
    const [template, file, more] = argv.filter((a) => !flags.includes(a));
    if (!template || more || template.startsWith('--')) {
        process.stderr.write('usage: validate.js TEMPLATE [PARAMETERS] [--managed-by ID] [--print]\n');
        return 2;
    }
    try {
        let parameters = file ? JSON.parse(fs.readFileSync(file === '-' ? 0 : file, 'utf8')) : {};
        if (parameters.$schema)
            parameters = Object.fromEntries(Object.entries(parameters.parameters).map(([k, v]) => [k, v.value]));
        const { resources, outputs } = new Deployment(JSON.parse(fs.readFileSync(template, 'utf8')), parameters, group).run();
        const faults = flags.length ? [] : validate(resources);
        if (flags.length)
            process.stdout.write(`${JSON.stringify({ resources, outputs }, null, 2)}\n`);
        for (const f of faults)
            process.stderr.write(`${template}: ${f}\n`);
        return faults.length ? 1 : 0;
    } catch (e) {
        if (!(e instanceof TemplateError || e instanceof SyntaxError || e.code))
            throw e;
        process.stderr.write(`validate.js: ${template}: ${e.message}\n`);
        return 1;
    }
}

process.exitCode = main(process.argv.slice(2));
