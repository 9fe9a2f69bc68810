"use strict";
// The page that shows a training run: asks once a second how it goes, while anybody looks at it. Markup comes from the
// studio (robometer_rl/studio/live.py), which has escaped every text in it.
window.robometerLive = (root) => {
  const EVERY = 1000;
  const line = root.querySelector(".live-line"), running = root.querySelector(".live-running");
  const failures = root.querySelector(".live-failures"), opened = root.querySelector(".live-opened");
  const choice = root.querySelector(".studio-choice"), select = choice.querySelector("select");
  let shown = {}, run = "";

  const ask = async (what, values) => {
    const answer = await fetch(`live/${what}?${new URLSearchParams(values)}`);
    if (!answer.ok) throw new Error(`the studio answers ${answer.status}`);
    return answer.json();
  };
  // Only what has changed, so that nothing is lost that somebody has chosen or marked.
  const put = (place, markup = "") => {
    if (shown[place.className] === markup) return;
    shown[place.className] = markup;
    place.innerHTML = markup;
  };
  const follow = (markup) => {
    const replay = running.querySelector(".replay");
    if (!markup || !replay) { put(running, markup); return; }
    if (!replay.replay) return;  // it is drawn when it comes near the screen
    if (!("watched" in replay.dataset)) {
      replay.dataset.watched = "";
      replay.replay.go(replay.replay.data.frames - 1);
    }
    const holder = document.createElement("template");
    holder.innerHTML = markup;
    const fresh = holder.content.firstElementChild;
    for (const name of ["h3", ".replay-about", ".replay-said"]) {
      replay.querySelector(name).textContent = fresh.querySelector(name).textContent;
    }
    replay.replay.update(JSON.parse(fresh.dataset.replay));
  };
  const choose = (runs) => {
    choice.hidden = runs.length < 2;
    if (runs.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
    select.replaceChildren(...runs.map((name) => new Option(name, name, false, name === run)));
  };
  const look = async () => {
    const asked = run;
    const state = await ask("state", { run });
    if (asked !== run) return;
    choose(state.runs ?? []);
    put(line, state.line);
    put(failures, state.failures);
    follow(state.running);
  };
  const tick = async () => {
    if (!root.isConnected) return;
    if (root.offsetParent && !document.hidden) {
      await look().catch((error) => {
        line.querySelector("p").textContent = `Nothing is heard of the studio: ${error.message}`;
        shown[line.className] = null;
      });
    }
    setTimeout(tick, EVERY);
  };

  select.addEventListener("change", () => {
    run = select.value;
    shown = {};
    running.replaceChildren();
    put(opened);
    look();
  });
  failures.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-key]");
    if (!button) return;
    const answer = await ask("failure", { run: run || (select.value ?? ""), key: button.dataset.key });
    put(opened, answer.shown ?? answer.line);
    opened.scrollIntoView({ block: "nearest" });
  });
  tick();
};
