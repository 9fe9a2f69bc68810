"use strict";
// A recording of the webcam becomes an upload like any other: in the same field, within the same limits, kept as long.
window.robometerWebcam = (root, field) => {
  const LONGEST_S = 120;
  const open = root.querySelector(".webcam-open"), stage = root.querySelector(".webcam-stage");
  const preview = stage.querySelector("video"), record = stage.querySelector(".webcam-record");
  const close = stage.querySelector(".webcam-close"), line = root.querySelector(".studio-line");
  let stream = null, recorder = null, clock = null;

  const say = (text, trouble = false) => {
    line.textContent = text;
    line.classList.toggle("studio-trouble", trouble);
  };
  const shut = () => {
    clearInterval(clock);
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = recorder = preview.srcObject = null;
    stage.hidden = true;
    open.hidden = false;
  };
  const why = (error) => ({
    NotAllowedError: "The browser was not allowed to use the webcam.",
    NotFoundError: "This device has no webcam.",
    NotReadableError: "Another program uses the webcam.",
  })[error.name] ?? `The webcam cannot be used: ${error.message}`;

  // As if somebody had chosen the file; what is in the field now has to go first, which brings back the place to put one.
  const upload = async (file) => {
    const home = document.getElementById(field);
    const place = () => home.querySelector("input[type=file]");
    if (!place()) home.querySelector("button[aria-label=Clear]")?.click();
    for (let tries = 0; tries < 50 && !place(); tries++) await new Promise((then) => setTimeout(then, 100));
    const files = new DataTransfer();
    files.items.add(file);
    place().files = files.files;
    place().dispatchEvent(new Event("change", { bubbles: true }));
  };

  open.addEventListener("click", async () => {
    say("");
    if (!navigator.mediaDevices) {
      say("Browsers give a webcam to pages of this machine only, or by https: open the studio at http://127.0.0.1, " +
        "through a tunnel if it runs elsewhere.", true);
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: { ideal: "environment" } } });
    } catch (error) {
      say(why(error), true);
      return;
    }
    preview.srcObject = stream;
    preview.play().catch(() => {});
    record.textContent = "● Start";
    stage.hidden = false;
    open.hidden = true;
    record.focus();
  });
  close.addEventListener("click", shut);
  record.addEventListener("click", () => {
    if (recorder) { recorder.stop(); return; }
    const parts = [], begun = performance.now();
    const type = ["video/webm", "video/mp4"].find((each) => MediaRecorder.isTypeSupported(each));
    const taking = recorder = new MediaRecorder(stream, { mimeType: type });
    taking.addEventListener("dataavailable", (event) => parts.push(event.data));
    taking.addEventListener("stop", async () => {
      const taken = recorder === taking;  // else the webcam was closed
      const seconds = ((performance.now() - begun) / 1000).toFixed(1);
      shut();
      if (!taken) return;
      await upload(new File(parts, type.replace("video/", "webcam."), { type }));
      say(`${seconds} s were recorded.`);
    });
    taking.start();
    const count = () => {
      const seconds = (performance.now() - begun) / 1000;
      record.textContent = `■ Stop (${seconds.toFixed(0)} s)`;
      if (seconds >= LONGEST_S) taking.stop();
    };
    clock = setInterval(count, 250);
    count();
  });
};
