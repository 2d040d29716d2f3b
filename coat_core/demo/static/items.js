// The browser of saved responses: filters, pages, players.

import { chooseExample } from "./clip.js";
import { byId, config, element, problemOf, setOptions } from "./dom.js";

const form = byId("filter-form");
const { backbones, families, verdicts } = config.filters;
let page = 1;
let latest = 0;

const any = (text) => ["", text];
const listed = (values) => values.map((value) => [String(value), String(value)]);

function setModelOptions() {
  const backbone = backbones.find(({ key }) => key === form.elements.backbone.value) ?? { arms: [], seeds: [], differences: [] };
  setOptions(form.elements.seed, backbone.seeds.length > 1 ? listed(backbone.seeds) : [any("the only one")]);
  setOptions(form.elements.arm, [any("all"), ...listed(backbone.arms)]);
  const differences = backbone.differences.map((value) => [value, value.replace(">", " better than ")]);
  setOptions(form.elements.difference, [any("any"), ["different", "arms differ"], ...differences]);
}

function itemCard(item) {
  const facts = [item.family, ...(item.choices ? [`choices: ${item.choices.join(", ")}`] : [])].join("; ");
  const ask = element("button", { type: "button", textContent: "Ask about this clip" });
  ask.addEventListener("click", () => {
    chooseExample(item);
    location.hash = "#ask";
  });
  const score = ({ score }) => (score === null ? "unscored" : score.toFixed(2));
  const row = (answer) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", textContent: answer.arm }),
      element("td", {}, element("span", { className: answer.verdict, title: answer.verdict, textContent: answer.response || "(empty)" })),
      element("td", { textContent: score(answer) }),
    );
  return element(
    "section",
    { className: "item", "aria-label": `Item ${item.id}`, "data-id": item.id },
    element("h2", { textContent: item.question }),
    element("p", { className: "muted" }, facts, "; right answer: ", element("b", { textContent: item.answer ?? "unknown" })),
    element("audio", { controls: true, preload: "none", src: `/api/clip?id=${encodeURIComponent(item.id)}`, "aria-label": `Clip of ${item.id}` }),
    element(
      "table",
      {},
      element("tr", {}, ...["arm", "answer", "score"].map((name) => element("th", { scope: "col", textContent: name }))),
      ...item.answers.map(row),
    ),
    element("div", { className: "row" }, ask, element("small", { className: "muted", textContent: item.id })),
  );
}

async function load() {
  const request = ++latest;
  const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  wanted.set("page", page);
  byId("items-problem").textContent = "";
  let found;
  try {
    const response = await fetch(`/api/items?${wanted}`);
    if (!response.ok) throw new Error(await problemOf(response));
    found = await response.json();
  } catch (error) {
    byId("items-problem").textContent = error.message;
    return;
  }
  if (request !== latest) return; // a later filter was faster
  page = found.page;
  byId("item-list").replaceChildren(...found.items.map(itemCard));
  byId("items-status").textContent = `${found.total} ${found.total === 1 ? "question" : "questions"}`;
  byId("page-number").textContent = `page ${found.page} of ${found.pages}`;
  byId("previous").disabled = found.page <= 1;
  byId("next").disabled = found.page >= found.pages;
  byId("pages").hidden = found.pages < 2;
}

function turn(by) {
  page += by;
  load().then(() => byId("items").scrollIntoView());
}

export function startItems() {
  if (!backbones.length) {
    form.hidden = byId("pages").hidden = true;
    byId("items-status").textContent = "This workspace has no scored responses; coat run writes them.";
    return;
  }
  setOptions(form.elements.backbone, backbones.map(({ key, name }) => [key, name]), config.models[0]?.key);
  setOptions(form.elements.family, [any("all"), ...listed(families)]);
  setOptions(form.elements.verdict, [any("any"), ...listed(verdicts)]);
  setModelOptions();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    setModelOptions();
    page = 1;
    load();
  }));
  form.addEventListener("input", (event) => {
    if (event.target.name === "backbone") setModelOptions();
    page = 1;
    load();
  });
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  load();
}
