// The chosen clip: an example of the workspace, a file, or a recording.

import { byId, config, element } from "./dom.js";
import { record } from "./recorder.js";

const player = byId("player");
const { audio_s: longest, file_bytes: largest } = config.limits;
let chosen = null; // { clip: id } or { audio: data URI }
let recording = null;

export const clipOfQuestion = () => chosen;

function choose(clip, address, name) {
  chosen = clip;
  player.src = address;
  byId("clip-name").textContent = name;
  byId("problem").textContent = "";
  document.dispatchEvent(new CustomEvent("clip"));
}

function none(problem) {
  chosen = null;
  player.removeAttribute("src");
  player.load();
  byId("clip-name").textContent = "No clip is chosen.";
  byId("problem").textContent = problem;
  document.dispatchEvent(new CustomEvent("clip"));
}

// Take an example, and write its question into the form.
export function chooseExample(item) {
  choose({ clip: item.id }, `/api/clip?id=${encodeURIComponent(item.id)}`, `Example ${item.id} (${item.family}, ${item.duration_s.toFixed(1)} s)`);
  byId("question").value = item.question;
  byId("choices").value = (item.choices ?? []).join("\n");
  byId("sample").value = config.samples.some((sample) => sample.id === item.id) ? item.id : "";
}

function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

async function take(blob, name) {
  if (blob.size === 0) return none(`${name} is empty`);
  if (blob.size > largest) return none(`${name} has ${(blob.size / 1e6).toFixed(1)} MB; allowed: ${(largest / 1e6).toFixed(1)} MB`);
  const uri = await dataUri(blob);
  byId("sample").value = "";
  choose({ audio: `data:application/octet-stream;base64,${uri.slice(uri.indexOf(",") + 1)}` }, URL.createObjectURL(blob), name);
}

async function toggleRecording() {
  const button = byId("record");
  if (recording) return recording.stop();
  try {
    recording = await record(longest, (time) => (button.textContent = `Stop · ${time.toFixed(0)} s`));
    button.textContent = "Stop";
    button.classList.add("recording");
    const blob = await recording.finished;
    await take(blob, "Recording");
  } catch (error) {
    none(`recording is not possible: ${error.message}`);
  } finally {
    recording = null;
    button.textContent = "Record";
    button.classList.remove("recording");
  }
}

export function startClips() {
  const groups = {};
  for (const item of config.samples) (groups[item.family] ??= []).push(item);
  byId("sample").append(
    element("option", { value: "", textContent: config.samples.length ? "choose an example" : "this workspace has no examples" }),
    ...Object.entries(groups).map(([family, items]) =>
      element("optgroup", { label: family }, ...items.map((item) => element("option", { value: item.id, textContent: item.question }))),
    ),
  );
  byId("sample").addEventListener("change", (event) => {
    const item = config.samples.find((sample) => sample.id === event.target.value);
    if (item) chooseExample(item);
  });
  byId("file").addEventListener("change", async (event) => {
    const file = event.target.files[0];
    if (file) await take(file, file.name);
    event.target.value = "";
  });
  byId("record").addEventListener("click", toggleRecording);
  byId("limits").textContent = `at most ${longest} s and ${(largest / 1e6).toFixed(0)} MB`;
}
