// A model's answer as elements. Only the lexer is used: no string of markup ever exists, so there
// is nothing to sanitise. Raw HTML shows as the text that it is, images as their description.

import { html } from "../html.js";
import { lexer } from "../../vendor/marked.js";

const SAFE_LINK = /^(https?:|mailto:)/i;

export function Markdown({ text }) {
  return html`<div class="markdown">${blocks(lexer(text, { gfm: true, breaks: true }))}</div>`;
}

function blocks(tokens) {
  return tokens.map((token, index) => block(token, index));
}

function block(token, key) {
  const inside = () => inline(token.tokens ?? []);
  switch (token.type) {
    case "space": case "def": return null;
    // A heading of an answer is no heading of the page.
    case "heading": return html`<p key=${key} class="heading"><b>${inside()}</b></p>`;
    case "paragraph": return html`<p key=${key}>${inside()}</p>`;
    case "text": return html`<p key=${key}>${token.tokens ? inside() : token.text}</p>`;
    case "code": return html`<pre key=${key} class="code" tabindex="0"><code>${token.text}</code>
      </pre>`;
    case "blockquote": return html`<blockquote key=${key}>${blocks(token.tokens)}</blockquote>`;
    case "hr": return html`<hr key=${key} />`;
    case "list": return list(token, key);
    case "table": return table(token, key);
    default: return html`<p key=${key}>${token.raw}</p>`;
  }
}

function list(token, key) {
  const items = token.items.map((item, index) => html`<li key=${index}>
    ${item.tokens.map((each, at) => (each.type === "text" && each.tokens
      ? html`<span key=${at}>${inline(each.tokens)}</span>` : block(each, at)))}</li>`);
  return token.ordered ? html`<ol key=${key} start=${token.start || 1}>${items}</ol>`
    : html`<ul key=${key}>${items}</ul>`;
}

function table(token, key) {
  const cells = (row, Tag) => row.map((cell, index) => html`<${Tag} key=${index}>
    ${inline(cell.tokens)}<//>`);
  return html`<div key=${key} class="scroll" tabindex="0"><table>
    <thead><tr>${cells(token.header, "th")}</tr></thead>
    <tbody>${token.rows.map((row, index) => html`<tr key=${index}>${cells(row, "td")}</tr>`)}
      </tbody>
  </table></div>`;
}

function inline(tokens) {
  return tokens.map((token, key) => {
    const inside = () => (token.tokens ? inline(token.tokens) : token.text);
    switch (token.type) {
      case "strong": return html`<strong key=${key}>${inside()}</strong>`;
      case "em": return html`<em key=${key}>${inside()}</em>`;
      case "del": return html`<s key=${key}>${inside()}</s>`;
      case "codespan": return html`<code key=${key}>${token.text}</code>`;
      case "br": return html`<br key=${key} />`;
      case "link": return SAFE_LINK.test(token.href)
        ? html`<a key=${key} href=${token.href} target="_blank" rel="noopener noreferrer">
          ${inside()}</a>`
        : token.raw;
      case "image": return `[${token.text}]`;
      case "text": case "escape": return inside();
      default: return token.raw;
    }
  });
}
