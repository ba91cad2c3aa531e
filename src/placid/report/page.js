"use strict";
// All model text goes through textContent: it is never parsed as HTML.
const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const rows = data.rows.map(([arm, prompt, condition, sample, end, chunk, place, scores]) => (
  { arm, prompt, condition, sample, end, chunk, place, scores, turns: scores.map((score) => ({ score })) }));
const LONG = 20000; // characters of one reply that are shown at once
const opened = new Map(); // chunk -> promise of its conversations
function unpack(number) {
  if (!opened.has(number)) {
    opened.set(number, (async () => {
      const bytes = Uint8Array.from(atob(at(`chunk-${number}`).textContent), (c) => c.charCodeAt(0));
      const { texts, rows: held } = JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).text());
      return held.map((turns) => turns.map(([user, reply, score, evidence, why, flags, right]) => (
        { user: texts[user], reply, score, evidence, why: texts[why], flags, right })));
    })());
    if (opened.size > 40) opened.delete(opened.keys().next().value); // memory stays bounded
  }
  return opened.get(number);
}
async function turnsOf(row) { return (await unpack(row.chunk))[row.place]; }
const partners = new Map(); // "arm, prompt, sample" -> rows, one per condition
for (const row of rows) {
  const key = JSON.stringify([row.arm, row.prompt, row.sample]);
  if (!partners.has(key)) partners.set(key, []);
  partners.get(key).push(row);
}
let found = []; // rows of the chosen arm that pass the filters
let shown;

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}
function fill(select, options, keep) { // options: [value, text]
  select.replaceChildren(...options.map(([value, text]) => Object.assign(make("option", "", text), { value: String(value) })));
  if (options.some(([value]) => String(value) === String(keep))) select.value = String(keep);
}
const colour = (score) => (score === null ? "sx" : score < 1 ? "s0" : score < 3 ? "s1" : score < 5 ? "s2" : score < 7.5 ? "s3" : "s4");
const worst = (row) => row.turns.reduce((best, turn, i) => ((turn.score ?? -1) > (row.turns[best].score ?? -1) ? i : best), 0);

// Control, bidi-override and invisible characters are shown by number: they must not steer the page.
const ODD = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/u;
function plain(parent, text) {
  if (!ODD.test(text)) { parent.append(text); return; }
  for (const part of text.split(new RegExp(`(${ODD.source})`, "u"))) {
    if (part && ODD.test(part)) parent.append(make("span", "odd", `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
    else if (part) parent.append(part);
  }
}
function paint(parent, text, words) { // text with every find of `words` marked
  const lower = text.toLowerCase();
  let from = 0;
  if (words && lower.length === text.length) { // some letters change their length in lower case: then unmarked
    for (let i = lower.indexOf(words); i >= 0; i = lower.indexOf(words, from)) {
      plain(parent, text.slice(from, i));
      parent.append(make("mark", "find", text.slice(i, i + words.length)));
      from = i + words.length;
    }
  }
  plain(parent, text.slice(from));
}
function replyOf(turn, words) {
  const p = make("p");
  if (turn.reply.length > LONG && !turn.whole) {
    const more = make("button", "", `show all ${turn.reply.length} characters`);
    more.type = "button";
    more.addEventListener("click", () => { turn.whole = true; p.replaceWith(replyOf(turn, words)); });
    plain(p, turn.reply.slice(0, LONG));
    p.append(" … ", more);
    return p;
  }
  const i = turn.evidence ? turn.reply.indexOf(turn.evidence) : -1;
  if (i < 0) { paint(p, turn.reply, words); return p; }
  paint(p, turn.reply.slice(0, i), words);
  const quote = make("mark");
  paint(quote, turn.evidence, words);
  p.append(quote);
  paint(p, turn.reply.slice(i + turn.evidence.length), words);
  return p;
}
function userOf(turn) {
  const p = make("p", "user");
  plain(p, turn.user.length > LONG ? `${turn.user.slice(0, LONG)} … (${turn.user.length} characters)` : turn.user);
  return p;
}
function turnOf(row, turns, i, side, words) {
  const turn = turns[i], box = make("article", `turn ${side}`), head = make("div", "head");
  box.id = `${side}-${i}`;
  head.append(make("b", "", `${row.arm} ${i + 1}`));
  head.append(make("span", `score ${colour(turn.score)}`, turn.score === null ? "unscored" : String(turn.score)));
  if (turn.right !== null) head.append(make("span", turn.right ? "right" : "muted", turn.right ? "✓ right answer" : "no right answer"));
  for (const flag of turn.flags) head.append(make("span", "flag", flag));
  if (i === turns.length - 1 && row.end !== "finished") head.append(make("span", "flag", row.end));
  head.append(make("span", "muted", turn.why.slice(0, 400)));
  box.append(head, userOf(turn), replyOf(turn, words));
  return box;
}
function headOf(row, side) {
  const box = make("div", side), strip = make("div", "strip");
  box.append(make("div", "heading", `${row.arm} · ${row.condition} · ${row.end} after ${row.turns.length} turns`), strip);
  row.turns.forEach((turn, i) => {
    const button = make("button", colour(turn.score), turn.score === null ? "?" : String(Math.round(turn.score)));
    button.type = "button";
    button.title = `turn ${i + 1}`;
    button.addEventListener("click", () => go(`${side}-${i}`));
    strip.append(button);
  });
  return box;
}
function go(id) {
  document.querySelectorAll(".here").forEach((box) => box.classList.remove("here"));
  const box = at(id);
  if (!box) return;
  box.classList.add("here");
  box.scrollIntoView({ block: "center" });
}
let ticket = 0;
async function show() {
  const mine = ++ticket;
  shown = rows[Number(at("sample").value)];
  const heads = at("heads"), turns = at("turns");
  heads.replaceChildren();
  turns.replaceChildren();
  if (!found.length || !shown) { at("count").textContent = "No conversation matches."; return; }
  const same = partners.get(JSON.stringify([at("beside").value, shown.prompt, shown.sample])) ?? [];
  const other = same.find((row) => row.condition === shown.condition) ?? same[0];
  const missing = at("beside").value && !other ? `; ${at("beside").value} holds no conversation of this prompt and sample` : "";
  at("count").textContent = `${found.indexOf(shown) + 1} of ${found.length} conversations that match${missing}`;
  heads.className = other ? "pair" : "pair one";
  heads.append(headOf(shown, "left-side"), ...(other ? [headOf(other, "right-side")] : []));
  const words = at("search").value.trim().toLowerCase();
  const [mineTurns, otherTurns] = await Promise.all([turnsOf(shown), other ? turnsOf(other) : []]);
  if (mine !== ticket) return; // something else was asked for meanwhile
  for (let i = 0; i < Math.max(shown.turns.length, other ? other.turns.length : 0); i++) {
    const line = make("div", heads.className);
    line.append(shown.turns[i] ? turnOf(shown, mineTurns, i, "left-side", words) : make("div"));
    if (other) line.append(other.turns[i] ? turnOf(other, otherTurns, i, "right-side", words) : make("div"));
    turns.append(line);
  }
}
function samples(keep) {
  const here = found.filter((row) => row.prompt === at("prompt").value);
  const many = new Set(here.map((row) => row.condition)).size > 1;
  fill(at("sample"), here.map((row) => [rows.indexOf(row), `${row.sample}${many ? ` ${row.condition}` : ""}${row.end === "deleted" ? " (deleted)" : ""}`]), keep);
  return show();
}
let sweep = 0;
async function filter() {
  const mine = ++sweep;
  const words = at("search").value.trim().toLowerCase(), before = shown;
  worstOf(at("arm").value);
  const passing = rows.filter((row) => row.arm === at("arm").value && (!at("deleted").checked || row.end === "deleted"));
  if (words) {
    const kept = [];
    for (const row of passing) {
      if (row.place === 0) at("count").textContent = `searching … ${kept.length} found`;
      if ((await turnsOf(row)).some((turn) => turn.reply.toLowerCase().includes(words))) kept.push(row);
      if (mine !== sweep) return; // the words changed meanwhile
    }
    found = kept;
  } else found = passing;
  const names = [...new Set(found.map((row) => row.prompt))];
  fill(at("prompt"), names.map((name) => [name, name]), before ? before.prompt : "");
  // stay on the same prompt and sample when only the arm changes
  const twin = before && found.find((row) => row.prompt === before.prompt && row.sample === before.sample);
  await samples(twin ? rows.indexOf(twin) : undefined);
}
function step(by) {
  if (!found.length) return;
  const row = found[(found.indexOf(shown) + by + found.length) % found.length];
  at("prompt").value = row.prompt;
  samples(rows.indexOf(row));
}
function worstOf(arm) { // buttons that open the conversation at the turn
  at("worstof").textContent = arm;
  at("worstlist").replaceChildren(...(data.worst[arm] ?? []).map(([place, turn, score, quote]) => {
    const item = make("li"), button = make("button"), words = make("span", "quote");
    button.type = "button";
    plain(words, ` ${quote}`);
    button.append(make("span", `score ${colour(score)}`, String(score)), ` turn ${turn + 1} `, words);
    button.addEventListener("click", () => open(rows[place], turn));
    item.append(button);
    return item;
  }));
}
async function open(row, turn) {
  at("search").value = "";
  at("deleted").checked = false;
  await filter();
  at("prompt").value = row.prompt;
  await samples(rows.indexOf(row));
  go(`left-side-${turn}`);
}
let waiting;
fill(at("arm"), data.arms.map((arm) => [arm, arm]), data.left);
fill(at("beside"), [["", "nothing"], ...data.arms.map((arm) => [arm, arm])], data.right);
for (const id of ["arm", "deleted"]) at(id).addEventListener("input", filter);
at("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 150); });
at("prompt").addEventListener("input", () => samples());
for (const id of ["sample", "beside"]) at(id).addEventListener("input", show);
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("worst").addEventListener("click", () => { if (shown && found.length) go(`left-side-${worst(shown)}`); });
at("pick").addEventListener("submit", (event) => event.preventDefault());
filter();
