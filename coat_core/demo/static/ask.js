// Questions: the answers of all models as they are generated, their times, and the read-outs.

import { clipOfQuestion } from "./clip.js";
import { byId, config, element, problemOf, seconds, setOptions } from "./dom.js";
import { clearPlot, showPlot } from "./plot.js";

let cards = [];
let plots = new Map();

function newCards() {
  cards = config.models.map((model) => {
    const text = element("p", { className: "text waiting", textContent: "" });
    const facts = element("dl");
    const card = element(
      "div",
      { className: "card answer", "data-model": model.label },
      element("h2", {}, model.label, element("small", { textContent: `${model.backbone}, ${model.name.replace("models:/", "")}` })),
      text,
      facts,
    );
    return { card, text, facts };
  });
  byId("answers").replaceChildren(...cards.map(({ card }) => card));
}

function setFacts(facts, rows) {
  facts.replaceChildren(...rows.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", {}, value)]));
}

function showAnswer(event) {
  const { text, facts } = cards[event.model];
  text.className = `text ${event.verdict ?? ""}`;
  text.textContent = event.text || "(empty)";
  const rows = [
    ["first token", seconds(event.first_token_s)],
    ["total", seconds(event.seconds)],
    ["tokens", `${event.prompt_tokens} in the prompt, ${event.tokens} decoded`],
  ];
  if (event.verdict) rows.push(["verdict", event.verdict === "right" ? "right" : `${event.verdict}; right answer: ${event.right_answer}`]);
  else if (event.choice) rows.push(["choice", event.choice]);
  if (event.note) rows.push(["no choice", event.note]);
  if (!event.finished) rows.push(["note", "cut off at the longest answer"]);
  setFacts(facts, rows);
}

function showError(event) {
  if (event.model === null) byId("problem").textContent = event.message;
  else if (cards[event.model].facts.childElementCount) byId("problem").textContent = `${config.models[event.model].label}: ${event.message}`;
  else {
    cards[event.model].text.className = "text waiting";
    cards[event.model].text.textContent = event.message;
  }
}

function addPlot(event) {
  plots.set(String(event.model), event.plot);
  const chooser = byId("read-out-model");
  setOptions(chooser, [...plots.keys()].map((number) => [number, config.models[number].label]));
  byId("read-out-row").hidden = plots.size < 2;
  byId("read-out").hidden = false;
  if (plots.size === 1) showPlot(event.plot);
}

const handlers = {
  queued: (event) => (byId("status").textContent = `waiting: ${event.before} before this question`),
  start: (event) => {
    byId("status").textContent = `${config.models[event.model].label} answers`;
    cards[event.model].text.textContent = "…";
  },
  text: (event) => {
    const { text } = cards[event.model];
    text.textContent = (text.classList.contains("waiting") ? "" : text.textContent) + event.text;
    text.classList.remove("waiting");
  },
  answer: showAnswer,
  reading: () => (byId("status").textContent = "reading out the thinking block"),
  read_out: addPlot,
  error: showError,
  end: () => (byId("status").textContent = "done"),
};

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

async function send(event) {
  event.preventDefault();
  const problem = byId("problem");
  problem.textContent = "";
  const clip = clipOfQuestion();
  if (!clip) return void (problem.textContent = "choose an example, upload a file, or record a clip first");
  if (!byId("question").value.trim()) return void (problem.textContent = "write a question first");
  const choices = byId("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const body = { ...clip, question: byId("question").value, choices, max_tokens: Number(byId("tokens").value) };
  byId("send").disabled = true;
  byId("status").textContent = "sending";
  clearPlots();
  try {
    const response = await fetch("/api/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (!response.ok) {
      problem.textContent = await problemOf(response);
      byId("status").textContent = "";
      return;
    }
    newCards();
    let ended = false;
    for await (const line of lines(response.body)) {
      const found = JSON.parse(line);
      handlers[found.event](found);
      ended = found.event === "end";
    }
    if (!ended) throw new Error("the answer was cut off");
  } catch (error) {
    problem.textContent = `the server cannot be reached: ${error.message}`;
    byId("status").textContent = "";
  } finally {
    byId("send").disabled = false;
  }
}

function clearPlots() {
  plots = new Map();
  byId("read-out").hidden = true;
  clearPlot();
}

export function startAsking() {
  byId("question-form").addEventListener("submit", send);
  byId("read-out-model").addEventListener("change", (event) => showPlot(plots.get(event.target.value)));
  // The answers and the plot are those of another clip.
  document.addEventListener("clip", () => {
    clearPlots();
    byId("answers").replaceChildren();
    byId("status").textContent = "";
  });
}
