"use strict";
// Keys of the page on which pairs are labelled; they press its buttons, whoever does not write or play at the moment.
(() => {
  const KEYS = { ArrowLeft: "label-left", ArrowRight: "label-right", "=": "label-equal", s: "label-skip", u: "label-undo" };
  const busy = "input, textarea, select, video, [role=slider], [role=tab], [contenteditable]";
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.repeat || event.target.closest(busy)) return;
    const button = document.getElementById(KEYS[event.key] ?? "");
    if (!button || !button.offsetParent || button.disabled) return;
    event.preventDefault();
    button.click();
  });
})();
