"use strict";
// Keys of the page on which people label: they press its buttons and fill its fields, whoever does not write or play at
// the moment. Of a single clip the arrows move the cursor, as they do on its axis.
(() => {
  const PRESSED = {
    ArrowLeft: ["label-left"], ArrowRight: ["label-right"], "=": ["label-equal"],
    s: ["label-skip", "label-pass"], u: ["label-undo", "label-back"], Enter: ["label-keep"], f: ["label-here"],
  };
  const OUTCOMES = { y: 0, p: 1, n: 2 };
  const MOVES = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End", " "];
  const busy = "input, textarea, select, video, [role=tab], [contenteditable]";

  const visible = (names) => (names ?? []).map((name) => document.getElementById(name))
    .find((node) => node?.offsetParent && !node.disabled);
  const clip = () => visible(["label-keep"]) && document.querySelector("#label-shown .replay")?.replay;
  const field = (name) => document.querySelector(`#${name} input`);
  const write = (name, value) => {
    const input = field(name);
    if (input.value === String(value)) return;
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const outcomes = () => [...document.querySelectorAll("#label-outcome input[type=radio]")];
  const choose = (number) => {
    const choice = outcomes()[number];
    if (!choice.checked) choice.click();
    if (number > 0) write("label-success-frame", "");
  };

  const press = (event) => {
    const replay = clip(), onSlider = event.target.closest("[role=slider]");
    if (replay && MOVES.includes(event.key)) {
      if (onSlider || (event.key === " " && event.target.closest("button"))) return false;
      const { key, shiftKey } = event;
      return !replay.svg.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, cancelable: true }));
    }
    if (replay && event.key in OUTCOMES) choose(OUTCOMES[event.key]);
    else if (replay && /^[0-9]$/.test(event.key)) {
      write("label-grade", Number(event.key) / 10);
      if (!outcomes().some((each) => each.checked)) choose(OUTCOMES.p);
    } else {
      if (onSlider && !replay) return false;
      const button = visible(PRESSED[event.key]);
      if (!button || (event.key === "Enter" && event.target.closest("button"))) return false;
      button.click();
    }
    return true;
  };
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.repeat && !MOVES.includes(event.key)) return;
    if (event.target.closest(busy) || !visible(["label-keep", "label-skip"])) return;
    if (press(event)) event.preventDefault();
  });

  addEventListener("click", (event) => {
    const button = event.target.closest("button[id^=label-]");
    // A button that was clicked keeps the keys to itself: Enter would press it again.
    if (button && event.detail) button.blur();
    if (button?.id !== "label-here" || !clip()) return;
    write("label-success-frame", clip().frame);
    choose(OUTCOMES.y);
  });
  addEventListener("input", (event) => {
    const replay = clip();
    if (!replay || !event.target.closest("#label-success-frame")) return;
    const frame = event.target.value === "" ? NaN : Number(event.target.value);
    replay.point(Number.isInteger(frame) && frame >= 0 && frame < replay.data.frames ? frame : null);
  });
  // A clip that has come is what the keys are about, unless somebody is writing.
  addEventListener("replay-frame", (event) => {
    const root = event.target;
    if (!root.closest("#label-shown") || root.dataset.seen) return;
    root.dataset.seen = "";
    if (!document.activeElement?.closest(busy)) root.querySelector("[role=slider]").focus({ preventScroll: true });
  });
})();
