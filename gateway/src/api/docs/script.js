// Shows the description of the API and sends calls. What comes from outside is only ever set as text, never as markup.
"use strict";

const PLACES = ["path", "query", "header", "cookie"];
const METHODS = ["get", "post", "put", "patch", "delete"];
// Of an answer that does not end, this much is shown.
const SHOWN_CHARACTERS_MAX = 65536;
let api = null;

const byId = (id) => document.getElementById(id);

// An element with attributes and children; strings become text.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A description, with what stands between backticks as code.
function prose(text) {
  return (text || "").split("`").map((part, place) => (place % 2 ? element("code", {}, part) : part));
}

// Follows references within the document.
function resolve(thing) {
  for (let steps = 0; thing && thing.$ref && steps < 16; steps += 1) {
    const path = thing.$ref.replace(/^#\//, "").split("/").map((part) => part.replace(/~1/g, "/").replace(/~0/g, "~"));
    thing = path.reduce((inside, part) => (inside ? inside[part] : undefined), api);
  }
  return thing || {};
}

// Some value that fits a schema, to begin from.
function example(schema, depth = 0) {
  const said = resolve(schema);
  if (depth > 6) return null;
  if (said.default !== undefined) return said.default;
  if (said.const !== undefined) return said.const;
  if (said.enum) return said.enum[0];
  const choice = (said.oneOf || said.anyOf || said.allOf || [])[0];
  if (choice) return example(choice, depth + 1);
  const type = Array.isArray(said.type) ? said.type[0] : said.type;
  if (type === "object" || said.properties) {
    const names = Object.keys(said.properties || {});
    return Object.fromEntries(names.map((name) => [name, example(said.properties[name], depth + 1)]));
  }
  if (type === "array") return said.items ? [example(said.items, depth + 1)] : [];
  if (type === "integer" || type === "number") return Math.max(said.minimum || 0, 1);
  if (type === "boolean") return false;
  if (type === "string") return "text";
  return null;
}

// Indents JSON without reading its numbers, which may be larger than a double keeps exactly.
function indent(json) {
  let out = "", depth = 0, inString = false;
  const line = () => "\n" + "  ".repeat(depth);
  for (let at = 0; at < json.length; at += 1) {
    const sign = json[at];
    if (inString) {
      out += sign;
      if (sign === "\\") { at += 1; out += json[at]; } else if (sign === "\"") inString = false;
    } else if (sign === "\"") {
      inString = true; out += sign;
    } else if (sign === "{" || sign === "[") {
      const closing = sign === "{" ? "}" : "]";
      if (json[at + 1] === closing) { out += sign + closing; at += 1; } else { depth += 1; out += sign + line(); }
    } else if (sign === "}" || sign === "]") {
      depth -= 1; out += line() + sign;
    } else if (sign === ",") {
      out += sign + line();
    } else if (sign === ":") {
      out += ": ";
    } else if (!/\s/.test(sign)) {
      out += sign;
    }
  }
  return out;
}

function fieldOf(parameter) {
  const schema = resolve(parameter.schema);
  const placeholder = parameter.example !== undefined ? String(parameter.example) : "";
  const attributes = { name: `${parameter.in}:${parameter.name}`, required: parameter.required === true };
  let field;
  if (schema.enum) {
    field = element("select", attributes, element("option", { value: "" }, ""),
      ...schema.enum.map((value) => element("option", { value }, String(value))));
  } else {
    field = element("input", { ...attributes, placeholder, autocomplete: "off", spellcheck: "false" });
    if (parameter.in === "path" && parameter.example !== undefined) field.value = placeholder;
  }
  const where = parameter.in === "path" ? "" : ` (${parameter.in})`;
  return element("label", {}, element("span", {}, parameter.name + where), field,
    element("small", {}, ...prose(parameter.description)));
}

// The request that a form stands for.
function requestOf(form, path, method, body, accept) {
  let url = path;
  const query = new URLSearchParams();
  const headers = new Headers();
  for (const field of form.querySelectorAll("[name]")) {
    const [place, name] = field.name.split(/:(.*)/);
    if (field.value === "") continue;
    if (place === "path") url = url.replace(`{${name}}`, encodeURIComponent(field.value));
    if (place === "query") query.append(name, field.value);
    if (place === "header") headers.set(name, field.value);
  }
  if (accept && accept.value) headers.set("Accept", accept.value);
  if (byId("credential").value) headers.set("Authorization", `Bearer ${byId("credential").value}`);
  if (body && body.value.trim() !== "") headers.set("Content-Type", "application/json");
  const text = [...query].length ? `?${query}` : "";
  // Next to this page, so that a prefix which a proxy adds stays.
  const target = new URL(`.${url}${text}`, document.baseURI);
  return new Request(target, { method: method.toUpperCase(), headers, cache: "no-store",
    body: body && body.value.trim() !== "" ? body.value : undefined });
}

async function send(request, output, controller) {
  const started = performance.now();
  output.replaceChildren("Waiting for the answer …");
  const response = await fetch(request, { signal: controller.signal });
  const time = Math.round(performance.now() - started);
  const status = element("p", { class: response.ok ? "good" : "bad" },
    `${response.status} ${response.statusText}, headers after ${time} ms`);
  const headers = element("dl");
  response.headers.forEach((value, name) => headers.append(element("dt", {}, name), element("dd", {}, value)));
  const shown = element("pre", { tabindex: "0", "aria-label": "Body of the answer" });
  output.replaceChildren(status, headers, shown);
  const isJson = /json/.test(response.headers.get("content-type") || "");
  const decoder = new TextDecoder();
  let text = "";
  if (!response.body) return;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
    if (!isJson) {
      text = text.slice(-SHOWN_CHARACTERS_MAX);
      shown.textContent = text;
    }
  }
  shown.textContent = isJson ? indent(text).slice(0, SHOWN_CHARACTERS_MAX) : text;
}

function schemaBlock(title, schema) {
  const name = schema.$ref ? schema.$ref.split("/").pop() : "";
  return element("details", {}, element("summary", {}, name ? `${title}: ${name}` : title),
    element("pre", { tabindex: "0" }, JSON.stringify(resolve(schema), null, 2)));
}

function fill(container, path, method, operation, shared) {
  const parameters = [...shared, ...(operation.parameters || [])].map(resolve);
  parameters.sort((one, other) => PLACES.indexOf(one.in) - PLACES.indexOf(other.in));
  const form = element("form");
  const content = operation.requestBody && resolve(operation.requestBody).content["application/json"];
  const answers = Object.entries(operation.responses || {}).map(([status, answer]) => [status, resolve(answer)]);
  const types = Object.keys((answers.find(([status]) => status === "200") || ["", {}])[1].content || {});
  const accept = types.length > 1
    ? element("select", {}, ...types.map((type) => element("option", { value: type }, type))) : null;
  let body = null;
  if (operation.description) container.append(element("p", {}, ...prose(operation.description)));
  form.append(element("h3", {}, "Request"), element("div", { class: "fields" }, ...parameters.map(fieldOf),
    accept && element("label", {}, "Accept (header)", accept)));
  if (content) {
    body = element("textarea", { spellcheck: "false" });
    body.value = JSON.stringify(example(content.schema || {}), null, 2);
    form.append(element("label", {}, "Body", body), schemaBlock("Schema of the body", content.schema || {}));
  }
  const stop = element("button", { type: "button", hidden: true }, "Stop");
  const output = element("div", { role: "status", "aria-live": "polite" });
  form.append(element("div", { class: "buttons" }, element("button", { type: "submit" }, "Send"), stop), output);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const controller = new AbortController();
    stop.onclick = () => controller.abort();
    stop.hidden = false;
    try {
      await send(requestOf(form, path, method, body, accept), output, controller);
    } catch (error) {
      output.append(element("p", { class: "bad" }, controller.signal.aborted ? "Stopped." : `No answer: ${error.message}`));
    }
    stop.hidden = true;
  });
  container.append(form, element("h3", {}, "Answers"));
  const list = element("dl");
  for (const [status, answer] of answers) {
    const schema = Object.values(answer.content || {})[0];
    list.append(element("dt", {}, status), element("dd", {}, ...prose(answer.description),
      schema && status === "200" ? schemaBlock("Schema", schema.schema || {}) : ""));
  }
  container.append(list);
}

function operationBlock(path, method, operation, shared) {
  const container = element("div");
  const block = element("details", { class: "operation", "data-text": `${method} ${path} ${operation.summary || ""}`.toLowerCase() },
    element("summary", {}, element("span", { class: "method" }, method.toUpperCase()),
      element("span", { class: "path" }, path), element("span", { class: "about" }, operation.summary || "")),
    container);
  block.addEventListener("toggle", () => {
    if (block.open && !container.hasChildNodes()) fill(container, path, method, operation, shared);
  });
  return block;
}

function show() {
  document.title = `${api.info.title}: the API`;
  byId("version").textContent = api.info.version;
  byId("description").replaceChildren(...prose(api.info.description));
  const sections = new Map((api.tags || []).map((tag) => [tag.name,
    element("section", {}, element("h2", {}, tag.name), element("p", {}, ...prose(tag.description)))]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      const section = sections.get((item[method].tags || [])[0]);
      if (section) section.append(operationBlock(path, method, item[method], item.parameters || []));
    }
  }
  byId("operations").replaceChildren(byId("state"), ...sections.values());
  filter();
}

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const section of document.querySelectorAll("section")) {
    let found = 0;
    for (const block of section.querySelectorAll(".operation")) {
      block.hidden = !words.every((word) => block.dataset.text.includes(word));
      found += block.hidden ? 0 : 1;
    }
    section.hidden = found === 0;
    count += found;
  }
  byId("state").textContent = `${count} operations`;
}

async function load() {
  byId("state").textContent = "Loading the description …";
  try {
    const headers = byId("credential").value ? { Authorization: `Bearer ${byId("credential").value}` } : {};
    const response = await fetch("openapi.json", { headers });
    const text = await response.json();
    if (!response.ok) throw new Error(text.detail || `status ${response.status}`);
    api = text;
    show();
  } catch (error) {
    byId("state").textContent = `The description cannot be loaded: ${error.message}`;
  }
}

byId("settings").addEventListener("submit", (event) => { event.preventDefault(); load(); });
byId("filter").addEventListener("input", () => { if (api) filter(); });
load();
