// SPDX-License-Identifier: Apache-2.0
// Keeps the page as it is: the server formats every text, both in the page and in the events; this only puts them in their places.
"use strict";

const live = document.getElementById("live");

function each(attribute, put) {
    for (const e of document.querySelectorAll("[" + attribute + "]"))
        put(e, e.getAttribute(attribute));
}

function setText(e, text) {
    if (e.textContent !== text) // what did not change is not announced again
        e.textContent = text;
}

function row(r) {
    const tr = document.createElement("tr");
    tr.className = r[4];
    for (const [i, name] of ["", "path", "", "num"].entries()) {
        const td = document.createElement("td");
        td.className = name;
        const inner = i === 2 ? td.appendChild(document.createElement("b")) : td;
        inner.textContent = r[i];
        tr.appendChild(td);
    }
    return tr;
}

function show(doc) {
    const f = doc.fields;
    document.body.dataset.state = f.state;
    document.title = f.state + " - TrustBridge";
    each("data-f", (e, name) => setText(e, f[name]));
    each("data-p", (e, name) => { e.value = Number(f[name]); });
    each("data-s", (e, name) => e.setAttribute("points", f[name]));
    each("data-c", (e, name) => {
        e.className = f[name];
        if (name.startsWith("step_"))
            e.setAttribute("aria-current", f[name] === "now" ? "step" : "false");
    });
    document.getElementById("rows").replaceChildren(...doc.rows.map(row));
}

function say(on, text) {
    live.className = on ? "live on" : "live off";
    setText(live, text);
}

function connect() {
    const events = new EventSource("/events");
    events.onmessage = (e) => {
        show(JSON.parse(e.data));
        say(true, "live");
    };
    events.onerror = () => {
        say(false, "not connected, trying again");
        if (events.readyState === EventSource.CLOSED) // refused, as there are many viewers
            setTimeout(connect, 5000);
    };
    addEventListener("pagehide", () => events.close(), {once: true});
}

connect();
