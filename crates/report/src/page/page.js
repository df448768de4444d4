"use strict";
// The theme: as the system has it, until someone chooses.
const root = document.documentElement;
const isDark = () => root.dataset.theme === "dark";
const paint = dark => { root.dataset.theme = dark ? "dark" : "light"; toggle.textContent = dark ? "Light" : "Dark"; toggle.setAttribute("aria-label", `Switch to the ${dark ? "light" : "dark"} theme`); };
const toggle = document.getElementById("theme");
paint(matchMedia("(prefers-color-scheme: dark)").matches);
toggle.addEventListener("click", () => paint(!isDark()));

// Values of a chart: under the pointer, or one after another by the arrow keys.
for (const chart of document.querySelectorAll(".chart")) {
  const spots = chart.querySelector("script.spots").textContent;
  if (spots === "[]") continue;
  let parsed; // when they are first asked for: a large page has megabytes of them
  const all = () => parsed ??= JSON.parse(spots);
  const svg = chart.querySelector("svg"), [width, height] = [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height];
  const tip = chart.appendChild(Object.assign(document.createElement("div"), { className: "tip" }));
  const mark = chart.appendChild(Object.assign(document.createElement("div"), { className: "mark" }));
  tip.setAttribute("role", "status");
  let at = -1;
  const show = place => {
    at = place;
    const spot = all()[place], x = spot.x / width * chart.clientWidth, y = spot.y / height * chart.clientHeight;
    tip.textContent = spot.words;
    tip.style.display = mark.style.display = "block";
    mark.style.left = `${x}px`; mark.style.top = `${y}px`;
    tip.style.left = `${Math.max(0, Math.min(x + 12, chart.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${y > tip.offsetHeight + 14 ? y - tip.offsetHeight - 12 : y + 12}px`;
  };
  const hide = () => { tip.style.display = mark.style.display = "none"; };
  chart.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), scale = width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let best = -1, least = 900;
    all().forEach((spot, place) => {
      const far = (spot.x - x) ** 2 + (spot.y - y) ** 2;
      if (far < least) [best, least] = [place, far];
    });
    best < 0 ? hide() : show(best);
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show((at + step + all().length) % all().length);
  });
}

// A chart's numbers as a file: the text stands in the page.
for (const link of document.querySelectorAll("a[data-csv]")) {
  link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(JSON.parse(document.getElementById(link.dataset.csv).textContent));
}

// The responses: one row per prompt and policy, as the filters have it.
const kept = JSON.parse(document.getElementById("kept").textContent);
const first = new Set(JSON.parse(document.getElementById("featured").textContent).map(pair => pair.join("\t")));
const [arms, points, seeds, prompts, least, search, order] = ["arm", "point", "seed", "prompt", "gold", "words", "order"].map(id => document.getElementById(`by-${id}`));
const options = (select, all, values) => {
  const chosen = select.value;
  select.replaceChildren(...[["", all], ...values.map(value => [value, value])].map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
  select.value = values.includes(chosen) ? chosen : "";
};
const values = place => [...new Set(kept.map(row => String(row[place])))];
if (kept.length) {
  options(arms, "all", values(0)); options(seeds, "all", values(2)); options(prompts, "all", values(3));
  const rows = document.querySelector("#completions tbody"), count = document.getElementById("count");
  const SHOWN = 100;
  const fill = () => {
    const floor = parseFloat(least.value), words = search.value.toLowerCase();
    let found = kept.filter(row => (!arms.value || row[0] === arms.value) && (points.value === "all" || first.has(`${row[0]}\t${row[1]}`))
      && (!seeds.value || String(row[2]) === seeds.value) && (!prompts.value || row[3] === prompts.value)
      && (isNaN(floor) || parseFloat(row[5]) >= floor) && row[4].toLowerCase().includes(words));
    const by = { best: row => -parseFloat(row[5]), worst: row => parseFloat(row[5]), far: row => -Math.abs(parseFloat(row[7])) }[order.value];
    if (by) found = found.slice().sort((a, b) => by(a) - by(b));
    count.textContent = `${found.length} responses` + (found.length > SHOWN ? `, the first ${SHOWN} shown` : "");
    rows.replaceChildren(...found.slice(0, SHOWN).map(row => {
      const line = document.createElement("tr");
      const cells = [`${row[0]} ${row[1] === "sft" ? "" : row[1]} · seed ${row[2]}`, row[3], (row[4] || "(empty)") + (row[9] ? "" : "…"), row[5], row[6], row[7]];
      line.replaceChildren(...cells.map(text => Object.assign(document.createElement("td"), { textContent: text })));
      return line;
    }));
  };
  for (const filter of [arms, points, seeds, prompts, least, search, order]) filter.addEventListener("input", fill);
  fill();
}
