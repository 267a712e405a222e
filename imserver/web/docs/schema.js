// JSON schemas for people: what a value may be, and an example of one.
import { el, prose } from "/docs/dom.js";

const MAX_DEPTH = 6;

/** Reads schemas of one description. */
export class Schemas {
  constructor(components) {
    this.components = components;
  }

  /** The schema behind a reference, and its name. */
  resolve(schema) {
    if (!schema || !schema.$ref) return { name: schema?.title ?? "", schema: schema ?? {} };
    const name = schema.$ref.split("/").pop();
    return { name, schema: this.components[name] ?? {} };
  }

  /** What a value may be, in a few words: "string · 1–64 characters". */
  describe(raw) {
    const { name, schema } = this.resolve(raw);
    if (raw?.$ref && schema.type === "object") return name;
    if (schema.anyOf && !schema.properties) {
      return schema.anyOf.map((one) => this.describe(one)).filter((text, i, all) => all.indexOf(text) === i).join(" or ");
    }
    if (schema.allOf) return schema.allOf.map((one) => this.describe(one)).join(" and ");
    if ("const" in schema) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
    const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type ?? "any value";
    if (type === "array") return [`list of ${this.describe(schema.items ?? {})}`, ...this.bounds(schema, "items")].join(" · ");
    if (type === "object" && schema.additionalProperties?.type) return `map of ${this.describe(schema.additionalProperties)}`;
    return [type, ...this.bounds(schema)].join(" · ");
  }

  bounds(schema) {
    const said = [];
    const range = (low, high, unit) => {
      if (low === undefined && high === undefined) return;
      if (low === undefined) said.push(`at most ${number(high)}${unit}`);
      else if (high === undefined) said.push(`${number(low)}${unit} or more`);
      else said.push(`${number(low)}–${number(high)}${unit}`);
    };
    range(schema.minLength, schema.maxLength, " characters");
    range(schema.minimum, schema.maximum, "");
    range(schema.minItems, schema.maxItems, " of them");
    if (schema.pattern) said.push(schema.pattern);
    if (schema.default !== undefined && schema.default !== null && schema.default !== "") said.push(`default ${JSON.stringify(schema.default)}`);
    return said;
  }

  /** An example value. */
  example(raw, depth = 0) {
    const { schema } = this.resolve(raw);
    if (schema.examples?.length) return schema.examples[0];
    if ("const" in schema) return schema.const;
    if (schema.enum) return schema.enum[0];
    if (depth > MAX_DEPTH) return null;
    if (schema.properties) {
      const required = new Set(schema.required ?? []);
      // Of fields of which one is enough the first.
      for (const name of schema.anyOf?.[0]?.required ?? []) required.add(name);
      const names = Object.keys(schema.properties).filter((name) => required.has(name));
      const shown = names.length ? names : Object.keys(schema.properties).slice(0, 3);
      return Object.fromEntries(shown.map((name) => [name, this.example(schema.properties[name], depth + 1)]));
    }
    if (schema.default !== undefined && schema.default !== null) return schema.default;
    if (schema.allOf) return Object.assign({}, ...schema.allOf.map((one) => this.example(one, depth + 1)));
    if (schema.anyOf) return this.example(schema.anyOf[0], depth + 1);
    switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
      case "integer": case "number": return schema.minimum ?? 0;
      case "boolean": return true;
      case "array": return [this.example(schema.items ?? {}, depth + 1)];
      case "object": return {};
      case "null": return null;
      case "string": return "…";
      default: return null;
    }
  }

  /** The fields of an object, those within it folded; undefined where it has none. An answer needs no "required". */
  table(raw, depth = 0, isAnswer = false) {
    const { schema } = this.resolve(raw);
    const parts = schema.allOf ?? (schema.properties ? [] : schema.anyOf) ?? [];
    const tables = parts.map((one) => this.table(one, depth, isAnswer)).filter(Boolean);
    const rows = Object.entries(schema.properties ?? {}).map(([name, property]) => this.row(name, property, schema, depth, isAnswer));
    if (!rows.length) return tables.length ? el("div", { class: "choices" }, tables) : undefined;
    const isChoice = Boolean(schema.anyOf && schema.anyOf.some((one) => one.required));
    return el("div", {},
      el("ul", { class: "fields" }, rows),
      isChoice && el("p", { class: "dim" }, "At least one of: ",
        schema.anyOf.map((one, i) => [i ? " / " : "", (one.required ?? []).map((name, j) => [j ? " and " : "", el("code", { text: name })])]).flat(3)));
  }

  row(name, property, parent, depth, isAnswer) {
    const { schema } = this.resolve(property);
    const isRequired = (parent.required ?? []).includes(name);
    const inner = depth < MAX_DEPTH ? this.inner(property, depth, isAnswer) : undefined;
    return el("li", {},
      el("div", { class: "field" },
        el("code", { class: "name", text: name }),
        isAnswer ? !isRequired && el("span", { class: "dim", text: "may be absent" })
          : el("span", { class: isRequired ? "need" : "dim", text: isRequired ? "required" : "optional" }),
        el("span", { class: "type", text: this.describe(property) })),
      (property.description ?? schema.description) && el("p", {}, prose(property.description ?? schema.description)),
      inner && el("details", {}, el("summary", { text: "its fields" }), inner));
  }

  inner(property, depth, isAnswer) {
    const { schema } = this.resolve(property);
    const target = schema.type === "array" ? schema.items : schema;
    if (!target) return undefined;
    const resolved = this.resolve(target).schema;
    if (!resolved.properties && !resolved.allOf && !resolved.anyOf) return undefined;
    return this.table(target, depth + 1, isAnswer);
  }
}

function number(value) {
  return value >= 2 ** 53 ? "2^" + Math.round(Math.log2(value)) : String(value);
}
