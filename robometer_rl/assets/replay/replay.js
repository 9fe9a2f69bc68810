"use strict";
// Draws every <section class="replay" data-replay="{numbers}">, now and when one is added later. Texts from data only
// ever become text nodes. The numbers are described in robometer_rl/report/replay.py.
(() => {
  if (window.robometerReplay) return;
  const LIGHT = ["#2563eb", "#c2410c", "#be185d", "#4d7c0f", "#6d28d9", "#334155"];
  const DARK = ["#60a5fa", "#fb923c", "#f472b6", "#a3e635", "#c4b5fd", "#cbd5e1"];
  const SUCCESS = { light: "#059669", dark: "#34d399" };
  const LEFT = 38, RIGHT = 10, TOP = 22, PLOT = 200, STRIP = 30, REWARD = 58, GAP = 22, BOTTOM = 34;

  const isDark = (node) => {
    if (document.querySelector(".gradio-container")) return document.body.classList.contains("dark");
    return getComputedStyle(node).getPropertyValue("--r-surface").trim() === "#0f172a";
  };
  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const draw = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  // Index of the last value that is not above x; -1 if all are.
  const last = (values, x) => {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] <= x) low = middle + 1; else high = middle;
    }
    return low - 1;
  };
  // What the scored frame at a place of a series is called: its number on the axis, and the other one where they differ.
  const called = (one, i) => `frame ${one.steps[i]}` +
    (one.steps[i] === one.numbers[i] ? "" : ` (${one.counted} ${one.numbers[i]})`);
  const number = (value, digits = 3) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");

  class Replay {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.dataset.replay);
      root.removeAttribute("data-replay");
      this.frame = 0;
      this.off = new Set();
      this.thumbs = new Map();
      this.plain = this.data.series.length === 0;  // a recording without curves is looked at frame by frame
      this.marked = this.data.marked;
      this.build();
      new ResizeObserver(() => this.plot()).observe(this.svg.parentElement);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot());
      this.fetch();
      this.go(0);
    }

    // The colour of a quantity: with one series, progress and success differ; with several, series do.
    color(series, kind) {
      const dark = isDark(this.root);
      if (this.data.series.length === 1 && kind === "original") return "var(--r-muted)";
      if (this.data.series.length === 1 && kind === "success") return dark ? SUCCESS.dark : SUCCESS.light;
      const colors = dark ? DARK : LIGHT;
      return colors[series % colors.length];
    }

    build() {
      const { videos, series, pictures } = this.data;
      const layout = pictures.length ? "" : videos.length === 0 ? " bare" : videos.length > 1 || this.plain ? " many" : "";
      this.body = make("div", { class: "replay-body" + layout });
      this.videos = videos.map((video) => {
        const player = make("video", { muted: "", playsinline: "", preload: "auto", "aria-label": video.name });
        player.muted = true;
        player.addEventListener("loadeddata", () => {
          player.style.aspectRatio = `${player.videoWidth} / ${player.videoHeight}`;
          this.remember(player);
          if (!this.playing) this.seek(player, this.videos.indexOf(player));
          this.seen();
        });
        player.addEventListener("seeked", () => this.remember(player));
        player.addEventListener("error", () => {
          if (!player.hasAttribute("src")) return;
          player.parentElement.querySelector("figcaption").textContent = video.name + ": the video cannot be played here";
        });
        return player;
      });
      if (videos.length) {
        const figures = this.videos.map((player, at) =>
          make("figure", {}, player, make("figcaption", {}, videos[at].name)));
        this.body.append(make("div", { class: "replay-videos" }, ...figures));
        const lengths = videos.map((video) => video.seconds.length);
        this.master = this.videos[lengths.indexOf(Math.max(...lengths))];
        this.master.addEventListener("ended", () => this.pause());
      }
      if (pictures.length) {
        this.picture = make("img", { alt: "" });
        this.body.append(make("div", { class: "replay-videos" }, make("figure", {}, this.picture)));
      }
      const side = make("div");
      this.button = make("button", { type: "button", class: "replay-play" }, "▶ Play");
      this.button.addEventListener("click", () => this.toggle());
      this.now = make("span", { class: "replay-now" });
      const bar = make("div", { class: "replay-bar" }, this.button, this.now);
      this.legend = make("div", { class: "replay-bar", role: "group", "aria-label": "curves" });
      this.legend.hidden = this.plain;
      this.svg = draw("svg", { class: "replay-plot", tabindex: "0", role: "slider", "aria-label": "frame",
                               "aria-valuemin": "0", "aria-valuemax": String(this.data.frames - 1) });
      this.values = make("ul", { class: "replay-values" });
      side.append(bar, this.legend, this.svg, this.values);
      this.body.append(side);
      this.root.append(this.body);
      this.details = this.table();
      if (!this.plain) this.root.append(this.details);
      this.buildSeen();
      this.keys();
      this.pointer();
      series.forEach((one, at) => this.switches(one, at));
    }

    switches(one, at) {
      const many = this.data.series.length > 1;
      const kinds = [["progress", "progress", true], ["success", "success probability", one.success],
                     ["band", "uncertainty", one.band], ["true", "true progress", one.trueProgress],
                     ["reward", "reward paid", one.rewards], ["original", "original reward", one.original]];
      for (const [kind, words, values] of kinds) {
        if (!values || (kind === "true" && !this.hasTruth(at))) continue;
        if (many && (kind === "reward" || kind === "original" || kind === "band")) continue;
        const swatch = make("span", { class: "replay-swatch" });
        swatch.dataset.series = at;
        swatch.dataset.kind = kind;
        const label = !many || kind === "true" ? words : `${one.name}${kind === "progress" ? "" : ": success"}`;
        const button = make("button", { type: "button", "aria-pressed": "true" }, swatch, label);
        button.addEventListener("click", () => {
          const key = `${at}:${kind}`;
          if (this.off.has(key)) this.off.delete(key); else this.off.add(key);
          button.setAttribute("aria-pressed", String(!this.off.has(key)));
          this.plot();
        });
        this.legend.append(button);
      }
    }

    // Whether the truth of a series is drawn in full: several series of one video share that of the first.
    hasTruth(at) { return this.data.series.length === 1 || (at === 0 && this.data.videos.length < 2); }

    on(series, kind) { return !this.off.has(`${series}:${kind}`); }

    x(frame) { return LEFT + (this.width - LEFT - RIGHT) * frame / Math.max(1, this.data.frames - 1); }

    plot() {
      this.width = Math.max(240, this.svg.parentElement.clientWidth);
      // What is paid, and what was paid before it was relabelled: on scales of their own.
      const paid = [["rewards", "reward", "reward paid"], ["original", "original", "original reward"]]
        .filter(([values]) => this.data.series.some((one) => one[values]));
      const height = TOP + (this.plain ? STRIP : PLOT) + paid.length * (GAP + REWARD) + BOTTOM;
      this.svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
      this.svg.setAttribute("height", height);
      this.svg.replaceChildren();
      const y = (value) => TOP + PLOT * (1 - Math.min(1, Math.max(0, value)));
      this.axes(y, height);
      this.data.series.forEach((one, at) => this.truth(one, at, y));
      this.rules(y);
      this.drawn = [];
      this.data.series.forEach((one, at) => this.curves(one, at, y));
      paid.forEach((each, at) => this.rewards(TOP + PLOT + GAP + at * (GAP + REWARD), ...each));
      this.markedFrame();
      this.cursor = draw("line", { y1: TOP - 6, y2: height - BOTTOM, stroke: "var(--r-ink)", "stroke-width": 1.5 });
      this.dots = draw("g", {});
      this.svg.append(this.cursor, this.dots);
      for (const swatch of this.legend.querySelectorAll(".replay-swatch")) {
        const kind = swatch.dataset.kind, muted = kind === "true", bars = ["reward", "original", "band"].includes(kind);
        const dashes = kind === "success" && this.data.series.length > 1;
        swatch.style.borderTopStyle = dashes || muted ? "dashed" : "solid";
        swatch.style.borderTopColor = muted ? "var(--r-muted)"
          : this.color(+swatch.dataset.series, bars && kind !== "original" ? "progress" : kind);
        swatch.style.borderTopWidth = bars ? "9px" : "3px";
        swatch.style.opacity = kind === "band" ? 0.3 : 1;
      }
      this.mark();
    }

    // Marks a frame on the axis, or none.
    point(frame) {
      this.marked = frame;
      this.plot();
    }

    markedFrame() {
      if (this.marked === null) return;
      const x = this.x(this.marked), bottom = TOP + (this.plain ? STRIP : PLOT), late = x > this.width - 120;
      this.svg.append(
        draw("line", { x1: x, x2: x, y1: TOP - 6, y2: bottom, stroke: "var(--r-good)", "stroke-width": 3 }),
        draw("text", { x: x + (late ? -6 : 6), y: TOP - 8, "text-anchor": late ? "end" : "start",
                       style: "fill:var(--r-good)" }, `success from frame ${this.marked}`));
    }

    axes(y, height) {
      const area = { x: LEFT, y: TOP, width: this.width - LEFT - RIGHT, height: this.plain ? STRIP : PLOT,
                     fill: "var(--r-plot)" };
      this.svg.append(draw("rect", area));
      for (const value of this.plain ? [] : [0, 0.25, 0.5, 0.75, 1]) {
        this.svg.append(
          draw("line", { x1: LEFT, x2: this.width - RIGHT, y1: y(value), y2: y(value), stroke: "var(--r-line)" }),
          draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
      }
      const end = this.data.frames - 1, room = Math.max(2, Math.floor((this.width - LEFT) / 70));
      let step = Math.max(1, Math.ceil(end / room));
      const round = 10 ** Math.floor(Math.log10(step));
      step = [1, 2, 5, 10].map((times) => times * round).find((size) => size >= step);
      for (let frame = 0; frame <= end; frame += step) {
        this.svg.append(draw("text", { x: this.x(frame), y: height - BOTTOM + 15, "text-anchor": "middle" }, frame));
      }
      this.svg.append(draw("text", { x: (LEFT + this.width) / 2, y: height - 3, "text-anchor": "middle" }, "frame"));
    }

    truth(one, at, y) {
      const row = TOP - 10 - 7 * (this.data.series.length > 1 ? at % 2 : 0);
      for (const [first, end] of one.trueSuccess ?? []) {
        const bar = draw("rect", { x: this.x(first) - 1, y: row, width: Math.max(4, this.x(end) - this.x(first) + 2),
                                   height: 6, rx: 2, fill: "var(--r-good)", opacity: 0.8 });
        bar.append(draw("title", {}, `true success in frames ${first} to ${end}`));
        this.svg.append(bar);
        if (this.hasTruth(at) && first === one.trueSuccess[0][0]) {
          const late = this.x(first) > this.width - 110;
          this.svg.append(draw("text", { x: this.x(first) - (late ? 6 : -2), y: late ? row + 7 : row - 3,
            "text-anchor": late ? "end" : "start", style: "fill:var(--r-good)" }, "true success"));
        }
      }
      if (one.trueProgress && this.hasTruth(at) && this.on(at, "true")) {
        const points = one.trueProgress.map((value, frame) => `${this.x(frame)},${y(value)}`);
        this.svg.append(draw("polyline", { points: points.join(" "), fill: "none", stroke: "var(--r-muted)",
                                           "stroke-width": 1.6, "stroke-dasharray": "2 4" }));
      }
    }

    rules(y) {
      const levels = new Set(this.data.series.map((one) => one.threshold).filter((level) => level !== null));
      for (const level of levels) {
        this.svg.append(
          draw("line", { x1: LEFT, x2: this.width - RIGHT, y1: y(level), y2: y(level), stroke: "var(--r-muted)",
                         "stroke-dasharray": "5 4" }),
          draw("text", { x: LEFT + 5, y: y(level) + (level > 0.9 ? 14 : -5) }, `threshold ${number(level, 2)}`));
      }
      this.data.series.forEach((one, at) => {
        if (one.fires === null || !this.on(at, "success")) return;
        const x = this.x(one.fires), color = this.color(at, "success");
        const words = this.data.series.length > 1 ? one.name
          : `success rule fires at ${called(one, one.steps.indexOf(one.fires))}`;
        // On the right of the line where there is room, and in any case inside the axes.
        const long = 6.2 * words.length, end = this.width - RIGHT - long;
        const left = Math.max(LEFT + 2, x + 8 <= end ? x + 8 : Math.min(x - 8 - long, end));
        this.svg.append(
          draw("line", { x1: x, x2: x, y1: TOP, y2: TOP + PLOT, stroke: color, "stroke-dasharray": "4 3" }),
          draw("path", { d: `M ${x - 6} ${TOP + PLOT} h 12 l -6 -9 z`, fill: color }),
          draw("text", { x: left, y: TOP + PLOT - 14 - 14 * at,
                         style: `fill:${color};paint-order:stroke;stroke:var(--r-plot);stroke-width:4px` }, words));
      });
    }

    curves(one, at, y) {
      const many = this.data.series.length > 1;
      if (one.band && this.on(at, "progress") && this.on(at, "band")) {
        const upper = one.steps.map((step, i) => `${this.x(step)},${y(one.band[1][i])}`);
        const lower = one.steps.map((step, i) => `${this.x(step)},${y(one.band[0][i])}`).reverse();
        this.svg.append(draw("polygon", { points: [...upper, ...lower].join(" "), fill: this.color(at, "progress"),
                                          opacity: many ? 0.1 : 0.16 }));
      }
      for (const kind of ["progress", "success"]) {
        if (!one[kind] || !this.on(at, kind)) continue;
        const heights = one.steps.map((step, i) => this.apart(step, y(one[kind][i])));
        this.drawn.push([one.steps, heights]);
        this.svg.append(draw("polyline", {
          points: one.steps.map((step, i) => `${this.x(step)},${heights[i]}`).join(" "), fill: "none",
          stroke: this.color(at, kind), "stroke-width": 2.2, "stroke-linejoin": "round",
          "stroke-dasharray": many && kind === "success" ? "6 4" : "none" }));
      }
    }

    // Where a line would hide another one, it is drawn its own width above; less where many might pile up.
    apart(step, height) {
      const width = Math.min(2.6, 13 / this.data.series.length / 2);
      for (const [steps, heights] of this.drawn) {
        const i = last(steps, step), next = Math.min(i + 1, steps.length - 1);
        if (i < 0) continue;
        const part = next === i ? 0 : (step - steps[i]) / (steps[next] - steps[i]);
        const there = heights[i] + (heights[next] - heights[i]) * part;
        if (Math.abs(height - there) < 0.95 * width) height = there - width;
      }
      return height;
    }

    rewards(top, values, kind, words) {
      const paid = this.data.series.map((one, at) => [one, at]).filter(([one, at]) =>
        one[values] && this.on(at, this.data.series.length > 1 ? "progress" : kind));
      const all = paid.flatMap(([one]) => one[values]);
      // Rewards of hundredths are not blown up to look like more.
      const high = Math.max(0.05, ...all), low = Math.min(-0.05, ...all), span = high - low;
      const y = (value) => top + REWARD * (high - value) / span;
      this.svg.append(draw("rect", { x: LEFT, y: top, width: this.width - LEFT - RIGHT, height: REWARD,
                                     fill: "var(--r-plot)" }));
      this.svg.append(draw("text", { x: LEFT, y: top - 6 }, words));
      for (const value of new Set([high, low])) {
        this.svg.append(draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)));
      }
      this.svg.append(draw("line", { x1: LEFT, x2: this.width - RIGHT, y1: y(0), y2: y(0), stroke: "var(--r-muted)" }));
      const width = Math.max(1.5, (this.width - LEFT - RIGHT) / this.data.frames * 0.6);
      for (const [one, at] of paid) {
        const d = one.steps.map((step, i) => `M ${this.x(step)} ${y(0)} V ${y(one[values][i])}`).join(" ");
        const stroke = this.color(at, kind === "original" ? kind : "progress");
        this.svg.append(draw("path", { d, stroke, "stroke-width": width, opacity: 0.75 }));
      }
    }

    mark() {
      if (!this.cursor) return;
      const x = this.x(this.frame);
      this.cursor.setAttribute("x1", x);
      this.cursor.setAttribute("x2", x);
      this.dots.replaceChildren();
      this.values.replaceChildren();
      const spoken = [];
      this.data.series.forEach((one, at) => {
        const i = Math.max(0, last(one.steps, this.frame));
        const words = [`progress ${number(one.progress[i])}`];
        if (one.success) words.push(`success ${number(one.success[i])}`);
        if (one.rewards) words.push(`reward ${number(one.rewards[i])}`);
        if (one.original) words.push(`original reward ${number(one.original[i])}`);
        if (one.trueProgress) words.push(`true progress ${number(one.trueProgress[Math.min(this.frame, one.trueProgress.length - 1)])}`);
        const label = (this.data.series.length > 1 ? one.name + ": " : "") + words.join(" · ");
        this.values.append(make("li", {}, label));
        spoken.push(label);
        for (const kind of ["progress", "success"]) {
          if (!one[kind] || !this.on(at, kind)) continue;
          const y = TOP + PLOT * (1 - Math.min(1, Math.max(0, one[kind][i])));
          this.dots.append(draw("circle", { cx: this.x(one.steps[i]), cy: y,
                                            r: 4, fill: this.color(at, kind) }));
        }
      });
      const video = this.data.videos[0];
      const seconds = video ? video.seconds[Math.min(this.frame, video.seconds.length - 1)] : null;
      const one = this.data.series[0], i = one ? last(one.steps, this.frame) : -1;
      const here = i >= 0 && one.steps[i] === this.frame ? called(one, i) : `frame ${this.frame}`;
      this.now.textContent = here.replace(/^frame \d+/, `$& of ${this.data.frames - 1}`) +
        (seconds === null ? "" : ` · ${number(seconds, 2)} s`);
      this.svg.setAttribute("aria-valuenow", this.frame);
      this.svg.setAttribute("aria-valuetext", spoken.length ? `${here}: ${spoken.join("; ")}` : here);
    }

    go(frame) {
      this.frame = Math.max(0, Math.min(this.data.frames - 1, Math.round(frame)));
      if (!this.playing) this.videos.forEach((player, at) => this.seek(player, at));
      if (this.picture) this.look();
      this.mark();
      this.seen();
      this.root.dispatchEvent(new CustomEvent("replay-frame", { bubbles: true, detail: this.frame }));
    }

    // New numbers of a recording that goes on: who looks at its end stays there, who looks elsewhere stays too.
    update(data) {
      const isAnother = data.pictures[0] !== this.data.pictures[0];
      const follows = isAnother || this.frame >= this.data.frames - 1;
      if (isAnother) this.thumbs.clear();
      this.data = data;
      this.svg.setAttribute("aria-valuemax", String(data.frames - 1));
      const details = this.table();
      details.open = this.details.open;
      this.details.replaceWith(details);
      this.details = details;
      this.buildSeen();
      this.plot();
      if (!this.playing) this.go(follows ? data.frames - 1 : this.frame);
    }

    // Pictures are fetched when they are wanted. One that is gone meanwhile leaves the one before it where it is.
    load(frame, then) {
      const address = this.data.pictures[frame], image = new Image();
      image.addEventListener("load", () => then(image, address));
      image.addEventListener("error", () => then(null, address));
      image.src = address;
    }

    look() {
      const shown = () => Math.min(this.frame, this.data.pictures.length - 1);
      this.load(shown(), (image, address) => {
        if (!image || this.data.pictures[shown()] !== address) return;
        image.alt = `frame ${shown()}`;
        this.picture.replaceWith(image);
        this.picture = image;
      });
    }

    seek(player, at) {
      const seconds = this.data.videos[at].seconds;
      const index = Math.min(this.frame, seconds.length - 1);
      const next = index + 1 < seconds.length ? seconds[index + 1] : seconds[index] + (seconds[1] ?? 0.1);
      player.currentTime = (seconds[index] + next) / 2;
    }

    // --- videos are fetched while they are near the screen: a page of hundreds holds a few at a time ---
    players() {
      const addresses = this.data.videos.map((video) => video.address);
      const players = this.videos.map((player, at) => [player, addresses[at]]);
      return this.finder ? [...players, [this.finder, addresses[this.data.series[this.watched].video]]] : players;
    }

    fetch() {
      for (const [player, address] of this.players()) if (!player.hasAttribute("src")) player.src = address;
    }

    release() {
      this.pause();
      this.thumbs.clear();
      for (const [player] of this.players()) {
        player.removeAttribute("src");
        player.load();
      }
    }

    // --- playing ---
    toggle() { if (this.playing) this.pause(); else this.play(); }

    play() {
      if (this.frame >= this.data.frames - 1) this.go(0);
      this.playing = true;
      this.button.textContent = "❚❚ Pause";
      if (this.master) {
        this.videos.forEach((player) => player.play().catch(() => this.pause()));
      } else {
        this.started = performance.now() - 1000 * this.frame / this.data.fps;
      }
      const tick = () => {
        if (!this.playing || !this.root.isConnected) return;
        const at = this.videos.indexOf(this.master);
        const frame = this.master ? Math.max(0, last(this.data.videos[at].seconds, this.master.currentTime + 1e-3))
          : (performance.now() - this.started) * this.data.fps / 1000;
        if (Math.floor(frame) !== this.frame) this.go(Math.floor(frame));
        for (const player of this.videos) {
          if (player !== this.master && !player.ended && Math.abs(player.currentTime - this.master.currentTime) > 0.15 &&
              this.master.currentTime < player.duration) player.currentTime = this.master.currentTime;
          this.remember(player);
        }
        if (!this.master && this.frame >= this.data.frames - 1) this.pause();
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
    }

    pause() {
      this.playing = false;
      this.button.textContent = "▶ Play";
      this.videos.forEach((player) => player.pause());
    }

    keys() {
      this.svg.addEventListener("keydown", (event) => {
        const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageUp: 10, PageDown: -10 };
        if (event.altKey || event.ctrlKey || event.metaKey) return;
        if (event.key === " ") this.toggle();
        else if (event.key in moves) { this.pause(); this.go(this.frame + moves[event.key] * (event.shiftKey ? 10 : 1)); }
        else if (event.key === "Home") { this.pause(); this.go(0); }
        else if (event.key === "End") { this.pause(); this.go(this.data.frames - 1); }
        else return;
        event.preventDefault();
      });
    }

    pointer() {
      const move = (event) => {
        if (event.type === "pointermove" && event.pointerType === "touch" && !event.buttons) return;
        if (this.playing && event.type === "pointermove" && !event.buttons) return;
        const box = this.svg.getBoundingClientRect();
        const along = ((event.clientX - box.left) * this.width / box.width - LEFT) / (this.width - LEFT - RIGHT);
        this.pause();
        this.go(along * (this.data.frames - 1));
      };
      this.svg.addEventListener("pointerdown", (event) => { this.svg.setPointerCapture(event.pointerId); move(event); });
      this.svg.addEventListener("pointermove", move);
    }

    // --- the frames that the model saw ---
    buildSeen() {
      const pictures = this.data.pictures.length > 0;
      this.watched = this.data.series.findIndex((one) => one.shown && (pictures || this.data.videos[one.video]));
      this.shown?.remove();
      if (this.watched < 0) return;
      const one = this.data.series[this.watched];
      this.caption = make("p");
      this.strip = make("div", { class: "replay-strip" });
      this.slots = one.shown[0].map(() => {
        const canvas = make("canvas", { width: 120, height: 90, "aria-hidden": "true" });
        const label = make("figcaption", {}, "");
        this.strip.append(make("figure", {}, canvas, label));
        return { canvas, label };
      });
      this.shown = make("div", { class: "replay-seen" }, this.caption, this.strip);
      this.details.before(this.shown);
      if (pictures) return;
      // A second player looks for the frames, so that the one on show stays where it is.
      this.finder = make("video", { muted: "", preload: "auto" });
      this.finder.muted = true;
      this.finder.addEventListener("seeked", () => { this.remember(this.finder, this.looking); this.looking = null; this.seen(); });
    }

    remember(player, known) {
      if (this.watched < 0 || player.readyState < 2) return;
      const at = this.data.series[this.watched].video;
      if (player !== this.finder && player !== this.videos[at]) return;
      const frame = known ?? last(this.data.videos[at].seconds, player.currentTime + 1e-3);
      if (frame < 0 || this.thumbs.has(frame)) return;
      this.keep(frame, player, player.videoHeight / player.videoWidth);
    }

    keep(key, source, ratio) {
      const height = Math.round(120 * ratio) || 90;
      const canvas = make("canvas", { width: 120, height });
      canvas.getContext("2d").drawImage(source, 0, 0, 120, height);
      this.thumbs.set(key, canvas);
    }

    // A picture whose place in the recording may change is known by its address.
    thumb(frame) { return this.thumbs.get(this.data.pictures.length ? this.data.pictures[frame] : frame); }

    seen() {
      if (this.watched < 0) return;
      const one = this.data.series[this.watched];
      const i = Math.max(0, last(one.steps, this.frame)), wanted = one.shown[i];
      const many = this.data.series.length > 1 ? ` (${one.name})` : "";
      this.caption.textContent = `What the model was shown for ${called(one, i)}${many}`;
      let missing = null;
      wanted.forEach((frame, at) => {
        const { canvas, label } = this.slots[at];
        canvas.parentElement.style.visibility = frame < 0 ? "hidden" : "visible";
        if (frame < 0) return;
        label.textContent = at && frame === wanted[at - 1] ? "again" : String(frame);
        const thumb = this.thumb(frame);
        if (!thumb) { missing ??= frame; return; }
        canvas.height = thumb.height;
        canvas.getContext("2d").drawImage(thumb, 0, 0);
        canvas.style.opacity = at && frame === wanted[at - 1] ? 0.4 : 1;
      });
      if (missing === null || this.playing) return;
      if (this.data.pictures.length) {
        if (this.looking === this.data.pictures[missing]) return;
        this.looking = this.data.pictures[missing];
        this.load(missing, (image, address) => {
          if (!image) return;
          this.keep(address, image, image.naturalHeight / image.naturalWidth);
          this.seen();
        });
        return;
      }
      if (this.finder.seeking) return;
      if (this.finder.readyState < 1) {
        this.finder.addEventListener("loadedmetadata", () => this.seen(), { once: true });
        return;
      }
      const seconds = this.data.videos[one.video].seconds;
      this.looking = missing;
      const next = missing + 1 < seconds.length ? seconds[missing + 1] : seconds[missing] + (seconds[1] ?? 0.1);
      this.finder.currentTime = (seconds[missing] + next) / 2;
    }

    // --- the same as a table, made when it is opened ---
    table() {
      const details = make("details", {}, make("summary", {}, "Values as a table"));
      details.addEventListener("toggle", () => {
        if (!details.open || details.children.length > 1) return;
        const table = make("table");
        // One counting, that of the axis; the other one beside it where there is another one.
        const other = this.data.series.find((one) => one.steps.some((step, i) => step !== one.numbers[i]));
        const before = this.data.series.some((one) => one.original);
        const columns = ["series", "frame", ...(other ? [other.counted] : []), "progress", "success probability", "reward",
                         ...(before ? ["original reward"] : []), "success rule"];
        table.append(make("caption", { class: "replay-said" }, this.data.name), make("thead", {}, make("tr", {},
          ...columns.map((column) => make("th", { scope: "col" }, column)))));
        const rows = make("tbody");
        for (const one of this.data.series) {
          one.steps.forEach((step, i) => rows.append(make("tr", {}, make("th", { scope: "row" }, one.name),
            ...[String(step), ...(other ? [String(one.numbers[i])] : []), number(one.progress[i]), one.success ? number(one.success[i]) : "",
                one.rewards ? number(one.rewards[i]) : "",
                ...(before ? [one.original ? number(one.original[i]) : ""] : []), one.fires === step ? "fires here" : ""]
              .map((text) => make("td", {}, text)))));
        }
        table.append(rows);
        details.append(make("div", { class: "replay-table", tabindex: "0" }, table));
      });
      return details;
    }
  }

  // A replay is drawn when it comes near the screen, so that a page of hundreds opens at once.
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      if (target.replay) target.replay.fetch(); else target.replay = new Replay(target);
      far.observe(target);
    }
  }, { rootMargin: "300px" });
  const far = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) continue;
      far.unobserve(target);
      target.replay.release();
    }
  }, { rootMargin: "2000px" });
  const find = () => {
    for (const root of document.querySelectorAll(".replay[data-replay]:not([data-found])")) {
      root.dataset.found = "";
      if (root.replay) {  // a page may fill an element again in place of putting another one there
        root.replay.pause();
        root.replay = null;
        near.unobserve(root);
        far.unobserve(root);
      }
      near.observe(root);
    }
  };
  const follow = () => {
    const name = decodeURIComponent(location.hash.slice(1));
    if (!name) return;
    for (const root of document.querySelectorAll(".replay")) {
      if (root.dataset.key === name) root.scrollIntoView({ block: "start" });
    }
  };
  const start = () => {
    find();
    follow();
    addEventListener("hashchange", follow);
    new MutationObserver(find).observe(document.body, { childList: true, subtree: true });
  };
  if (document.body) start(); else addEventListener("DOMContentLoaded", start);
  window.robometerReplay = { find };
})();
