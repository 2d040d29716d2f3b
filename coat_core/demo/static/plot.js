// The read-out as panels over one time axis, with a play head that follows the player.

import { byId, element } from "./dom.js";

const player = byId("player");
const SIZES = { waveform: 56, spectrogram: 130, pitch: 120, curve: 44 };
const MIDDLE = 0.7; // share of the range at which a picture has the colour of its kind
let shown = null;
let head = null;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function channels(text) {
  const context = element("canvas", { width: 1, height: 1 }).getContext("2d");
  context.fillStyle = text;
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}

// A picture whose bytes go from the colour of the card over the colour of its kind to one near the ink; byte 0 is transparent.
function picture({ rows, columns, pixels }, name) {
  const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
  const canvas = element("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const [low, middle, ink] = ["--card", name, "--ink"].map((variable) => channels(colour(variable)));
  const high = middle.map((value, c) => (value + ink[c]) / 2);
  bytes.forEach((byte, i) => {
    const share = Math.max(0, byte - 1) / 254;
    const [from, to, part] = share < MIDDLE ? [low, middle, share / MIDDLE] : [middle, high, (share - MIDDLE) / (1 - MIDDLE)];
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = from[c] + part * (to[c] - from[c]);
    image.data[4 * i + 3] = byte ? 255 : 0;
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

function drawLine(context, series, x, y, { stroke, width, fillTo = null }) {
  context.strokeStyle = context.fillStyle = stroke;
  context.lineWidth = width;
  let run = [];
  const flush = () => {
    if (run.length && fillTo !== null) {
      context.globalAlpha = 0.18;
      context.beginPath();
      context.moveTo(run[0][0], fillTo);
      run.forEach(([px, py]) => context.lineTo(px, py));
      context.lineTo(run.at(-1)[0], fillTo);
      context.fill();
      context.globalAlpha = 1;
    }
    context.beginPath();
    run.forEach(([px, py], i) => (i ? context.lineTo(px, py) : context.moveTo(px, py)));
    if (run.length === 1) context.arc(run[0][0], run[0][1], width / 2, 0, 2 * Math.PI);
    context.stroke();
    run = [];
  };
  series.values.forEach((value, i) => (value === null ? flush() : run.push([x(series.start + i * series.step), y(value)])));
  flush();
}

function panels(plot) {
  const found = [{ kind: "waveform", name: "Waveform", note: "", draw: drawWaveform }];
  if (plot.spectrogram) {
    const { measured, predicted, ticks, note } = plot.spectrogram;
    found.push({ kind: "spectrogram", name: "Spectrogram", sub: "expert", note: "", draw: imageDrawer(measured, "--measured", ticks) });
    found.push({ kind: "spectrogram", name: "Spectrogram", sub: "read-out", note, draw: imageDrawer(predicted, "--predicted", ticks) });
  }
  if (plot.pitch) found.push({ kind: "pitch", name: "Pitch", note: "", title: plot.pitch.note, draw: pitchDrawer(plot.pitch) });
  for (const curve of plot.curves) {
    const note = curve.r === null ? "" : `r ${curve.r.toFixed(2).replace("-", "−")}`;
    found.push({ kind: "curve", name: curve.name, sub: curve.title, note, draw: curveDrawer(curve) });
  }
  return found;
}

function drawWaveform(context, width, height, x, plot) {
  const { low, high } = plot.waveform;
  const limit = Math.max(1e-3, ...low.map(Math.abs), ...high.map(Math.abs));
  context.fillStyle = colour("--measured");
  const step = width / low.length;
  low.forEach((value, i) => {
    const top = (height / 2) * (1 - high[i] / limit);
    context.fillRect(i * step, top, Math.max(step, 0.7), Math.max(1, (height / 2) * (1 - value / limit) - top));
  });
}

const imageDrawer = (image, name, ticks) => (context, width, height) => {
  context.drawImage(picture(image, name), 0, 0, width, height);
  drawTicks(context, width, height, ticks, (place) => height * (1 - place / image.rows));
};

const pitchDrawer = (pitch) => (context, width, height, x) => {
  const y = (value) => height * (1 - (value - pitch.low) / (pitch.high - pitch.low));
  drawTicks(context, width, height, pitch.ticks, y, colour("--line"));
  drawLine(context, pitch.measured, x, y, { stroke: colour("--measured"), width: 4 });
  drawLine(context, pitch.predicted, x, y, { stroke: colour("--predicted"), width: 2 });
};

const curveDrawer = (curve) => (context, width, height, x) => {
  const y = (value) => height * (1 - (value - curve.low) / (curve.high - curve.low));
  drawLine(context, curve.measured, x, y, { stroke: colour("--measured"), width: 1, fillTo: height });
  drawLine(context, curve.predicted, x, y, { stroke: colour("--predicted"), width: 2 });
};

function drawTicks(context, width, height, ticks, y, grid = null) {
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  let free = height; // labels go up from here
  for (const [place, text] of ticks) {
    if (grid) {
      context.fillStyle = grid;
      context.fillRect(0, y(place), width, 1);
    }
    const middle = Math.min(height - 7, Math.max(7, y(place)));
    if (middle + 7 > free) continue;
    free = middle - 7;
    const room = context.measureText(text).width + 6;
    context.globalAlpha = 0.8;
    context.fillStyle = colour("--card");
    context.fillRect(2, middle - 7, room, 14);
    context.globalAlpha = 1;
    context.fillStyle = colour("--ink");
    context.fillText(text, 5, middle + 0.5);
  }
}

function drawAll() {
  if (!shown) return;
  for (const { canvas, panel } of shown.rows) {
    const width = canvas.clientWidth;
    if (!width) return;
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(SIZES[panel.kind] * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.lineJoin = "round";
    panel.draw(context, width, SIZES[panel.kind], (time) => (time / shown.plot.duration_s) * width, shown.plot);
  }
  moveHead(player.currentTime);
}

function axis(duration) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10].find((size) => duration / size <= 10) ?? 20;
  const line = element("div", { className: "axis", "aria-hidden": "true" });
  for (let i = 0; i * step <= duration; i++) {
    const mark = element("span", { textContent: `${Number((i * step).toFixed(1))}${i ? "" : " s"}` });
    mark.style.left = `${(100 * i * step) / duration}%`;
    line.append(mark);
  }
  return line;
}

function moveHead(time) {
  if (!shown) return;
  const { canvas } = shown.rows[0];
  const at = Math.min(Math.max(time, 0), shown.plot.duration_s);
  head.style.left = `${canvas.offsetLeft + (at / shown.plot.duration_s) * canvas.clientWidth}px`;
  head.dataset.time = at.toFixed(3);
  byId("play-head").value = at;
  byId("play-time").textContent = `${at.toFixed(2)} s`;
}

function seek(time) {
  player.currentTime = time;
  moveHead(time);
}

function follow() {
  moveHead(player.currentTime);
  if (!player.paused) requestAnimationFrame(follow);
}

export function clearPlot() {
  shown = null;
  byId("plot").replaceChildren();
}

export function showPlot(plot) {
  const rows = panels(plot).map((panel) => {
    const canvas = element("canvas", { role: "img", "aria-label": [panel.name, panel.sub].filter(Boolean).join(", ") });
    canvas.style.height = `${SIZES[panel.kind]}px`;
    canvas.addEventListener("pointerdown", (event) => seek((event.offsetX / canvas.clientWidth) * plot.duration_s));
    canvas.addEventListener("pointermove", (event) => event.buttons === 1 && seek((event.offsetX / canvas.clientWidth) * plot.duration_s));
    const name = element("div", { className: "name" }, panel.name, ...(panel.sub ? [element("small", { textContent: panel.sub })] : []));
    if (panel.title) name.append(element("small", { textContent: panel.title }));
    return { canvas, panel, row: element("div", { className: "panel" }, name, canvas, element("div", { className: "note", textContent: panel.note })) };
  });
  head = element("div", { className: "head" });
  byId("plot").replaceChildren(...rows.map(({ row }) => row), axis(plot.duration_s), head);
  byId("play-head").max = plot.duration_s;
  shown = { plot, rows };
  drawAll();
}

export function startPlot() {
  new ResizeObserver(drawAll).observe(byId("plot"));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  byId("play-head").addEventListener("input", (event) => seek(Number(event.target.value)));
  byId("play").addEventListener("click", () => (player.paused ? player.play() : player.pause()));
  player.addEventListener("play", () => {
    byId("play").textContent = "Pause";
    follow();
  });
  player.addEventListener("pause", () => (byId("play").textContent = "Play"));
  for (const name of ["timeupdate", "seeked", "ended"]) player.addEventListener(name, () => moveHead(player.currentTime));
}
