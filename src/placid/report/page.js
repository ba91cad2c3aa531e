"use strict";
// All model text goes through textContent: it is never parsed as HTML.
const rows = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const arms = [...new Set(rows.map((r) => r.arm))];
const make = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
const fill = (select, values, none) => {
  const old = select.value;
  select.replaceChildren(...(none ? [Object.assign(make("option", "", "none"), { value: "" })] : []), ...values.map((v) => Object.assign(make("option", "", String(v)), { value: String(v) })));
  if ([...select.options].some((o) => o.value === old)) select.value = old;
};
const colour = (s) => s === null ? "sx" : s < 1 ? "s0" : s < 3 ? "s1" : s < 5 ? "s2" : s < 7.5 ? "s3" : "s4";
function matching() {
  const text = at("search").value.toLowerCase();
  return rows.filter((r) => r.arm === at("arm").value && (!at("deleted").checked || r.end === "deleted") && (!text || r.turns.some((t) => t[1].toLowerCase().includes(text))));
}
function reply(t) {
  const p = make("p"), i = t[3] ? t[1].indexOf(t[3]) : -1;
  if (i < 0) { p.textContent = t[1]; return p; }
  p.append(t[1].slice(0, i), make("mark", "", t[3]), t[1].slice(i + t[3].length));
  return p;
}
function show(view, row) {
  view.replaceChildren();
  if (!row) return;
  view.append(make("h3", "", `${row.arm} · ${row.prompt} · sample ${row.sample} · ${row.end}`));
  row.turns.forEach((t, i) => {
    const box = make("div", "turn"), head = make("div", "head");
    head.append(make("span", "", `turn ${i + 1}`), make("span", "score " + colour(t[2]), t[2] === null ? "unscored" : t[2].toFixed(1)), make("span", "muted", t[4]));
    t[5].forEach((f) => head.append(make("span", "flag", f)));
    box.append(head, make("p", "user", t[0]), reply(t));
    box.dataset.score = t[2] === null ? -1 : t[2];
    view.append(box);
  });
}
function draw() {
  const found = matching();
  fill(at("prompt"), [...new Set(found.map((r) => r.prompt))]);
  fill(at("sample"), found.filter((r) => r.prompt === at("prompt").value).map((r) => r.sample));
  at("count").textContent = `${found.length} conversations match`;
  const same = (arm) => rows.find((r) => r.arm === arm && r.prompt === at("prompt").value && String(r.sample) === at("sample").value);
  const views = document.querySelectorAll(".view");
  show(views[0], same(at("arm").value));
  show(views[1], at("beside").value ? same(at("beside").value) : undefined);
}
at("worst").addEventListener("click", () => {
  const boxes = [...document.querySelector(".view").querySelectorAll(".turn")];
  boxes.forEach((b) => b.classList.remove("here"));
  const worst = boxes.sort((a, b) => b.dataset.score - a.dataset.score)[0];
  if (worst) { worst.classList.add("here"); worst.scrollIntoView({ block: "center" }); }
});
at("pick").addEventListener("submit", (e) => e.preventDefault());
fill(at("arm"), arms);
fill(at("beside"), arms, true);
if (arms.length > 1) at("beside").value = arms.includes("bct") ? "bct" : arms[1];
for (const id of ["arm", "beside", "prompt", "sample", "search", "deleted"]) at(id).addEventListener("input", draw);
draw();
