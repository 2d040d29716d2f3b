// A recording as a WAV file. Browsers record WebM or MP4, which the server does not decode, so the browser decodes it here.

// `onProgress` gets the recorded seconds, about five times a second.
export async function record(longest, onProgress) {
  if (!navigator.mediaDevices) throw new Error("the browser allows it on this computer (127.0.0.1) or over https only");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  let begin = 0;
  recorder.ondataavailable = (event) => {
    parts.push(event.data);
    if (event.data.size && recorder.state === "recording") onProgress((performance.now() - begin) / 1000);
  };
  const stopped = new Promise((resolve) => (recorder.onstop = resolve));
  const stop = () => recorder.state !== "inactive" && recorder.stop();
  const limit = setTimeout(stop, 1000 * longest);
  begin = performance.now();
  recorder.start(200);
  const finished = stopped.then(async () => {
    clearTimeout(limit);
    stream.getTracks().forEach((track) => track.stop());
    const context = new AudioContext();
    try {
      const decoded = await context.decodeAudioData(await new Blob(parts).arrayBuffer());
      // The timer can be late: the server refuses longer clips.
      return wav(decoded, Math.min(decoded.length, Math.floor(longest * decoded.sampleRate)));
    } finally {
      await context.close();
    }
  });
  return { stop, finished };
}

// The first samples of a decoded buffer, mixed to mono, as 16-bit PCM.
function wav(buffer, length) {
  const view = new DataView(new ArrayBuffer(44 + 2 * length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, buffer.sampleRate, true);
  view.setUint32(28, 2 * buffer.sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * length, true);
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
  for (let i = 0; i < length; i++) {
    const mean = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
    view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, mean))), true);
  }
  return new Blob([view], { type: "audio/wav" });
}
