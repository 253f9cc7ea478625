// Draws the lanes of the JSON in #data on the canvas #timeline: zoom with the wheel, move by
// dragging. Knows spans of time, names and colours; nothing about models.
"use strict";
(() => {
  const { lanes, names, colours, end } = JSON.parse(document.getElementById("data").textContent);
  const canvas = document.getElementById("timeline");
  const hint = document.getElementById("hint");
  const LANE = 30, GAP = 4, AXIS = 24, LABEL = 70, SHORTEST = 1; // px, and µs across the canvas
  const height = AXIS + lanes.length * (LANE + GAP) + GAP;
  let from = 0, to = end, dragged = null;

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const width = () => canvas.clientWidth - LABEL;
  const toX = (time) => LABEL + ((time - from) / (to - from)) * width();
  const toTime = (x) => from + ((x - LABEL) / width()) * (to - from);
  const top = (lane) => AXIS + lane * (LANE + GAP);

  function inTime(us) {
    const [scale, unit] = Math.abs(us) >= 1e6 ? [1e6, " s"] : Math.abs(us) >= 1e3 ? [1e3, " ms"] : [1, " µs"];
    return +(us / scale).toPrecision(6) + unit;
  }

  // The first span of a lane that may reach into the view; spans begin in order.
  function firstIn(spans) {
    let low = 0, high = spans.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (spans[middle][0] < from) low = middle + 1; else high = middle;
    }
    return Math.max(0, low - 1);
  }

  function draw() {
    const scale = window.devicePixelRatio || 1;
    canvas.style.height = height + "px";
    canvas.width = canvas.clientWidth * scale;
    canvas.height = height * scale;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    drawAxis(context);
    lanes.forEach((lane, number) => drawLane(context, lane, top(number)));
  }

  function drawAxis(context) {
    const rough = ((to - from) / width()) * 110;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough);
    context.strokeStyle = style("--grid");
    context.fillStyle = style("--faint");
    for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
      const x = toX(time);
      context.beginPath();
      context.moveTo(x, AXIS - 4);
      context.lineTo(x, height);
      context.stroke();
      context.fillText(inTime(time), x + 3, AXIS / 2);
    }
  }

  function drawLane(context, lane, y) {
    context.fillStyle = style("--faint");
    context.fillText(lane.name, 8, y + LANE / 2);
    context.save();
    context.beginPath();
    context.rect(LABEL, y, width(), LANE);
    context.clip();
    for (let i = firstIn(lane.spans); i < lane.spans.length && lane.spans[i][0] <= to; i++) {
      const [start, length, name, colour] = lane.spans[i];
      const left = Math.max(toX(start), LABEL - 2);
      const right = Math.min(toX(start + length), LABEL + width() + 2);
      if (right < LABEL) continue;
      const space = right - left;
      context.fillStyle = colours[colour];
      context.fillRect(left, y, Math.max(space - (space > 3 ? 1 : 0), 0.5), LANE);
      if (space > 34) drawName(context, names[name], left + 5, y, space - 10);
    }
    context.restore();
  }

  function drawName(context, text, x, y, space) {
    let shown = text;
    const fits = () => context.measureText(shown).width <= space;
    while (!fits() && shown.length > 2) shown = shown.slice(0, Math.floor(shown.length * 0.8) - 1) + "…";
    if (!fits() || shown.length < 3) return;
    context.fillStyle = "#ffffff";
    context.fillText(shown, x, y + LANE / 2 + 1);
  }

  function show(start, stop) {
    const length = Math.min(Math.max(stop - start, SHORTEST), end);
    from = Math.min(Math.max(start, 0), end - length);
    to = from + length;
    draw();
  }

  function zoom(factor, at) {
    show(at - (at - from) * factor, at + (to - at) * factor);
  }

  function under(x, y) {
    const lane = lanes[Math.floor((y - AXIS) / (LANE + GAP))];
    if (!lane || x < LABEL) return null;
    const time = toTime(x), slack = ((to - from) / width()) * 2;
    return lane.spans.find(([start, length]) => start - slack <= time && time <= start + length + slack);
  }

  function hover(event) {
    const span = under(event.offsetX, event.offsetY);
    hint.style.display = span ? "block" : "none";
    if (!span) return;
    hint.textContent = names[span[2]] + " — " + inTime(span[1]) + " at " + inTime(span[0]);
    const right = window.innerWidth - hint.offsetWidth - 8;
    hint.style.left = Math.min(event.clientX + 14, right) + "px";
    hint.style.top = event.clientY + 18 + "px";
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.0015), toTime(event.offsetX));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    dragged = { x: event.offsetX, from, to };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged) return hover(event);
    const moved = ((dragged.x - event.offsetX) / width()) * (dragged.to - dragged.from);
    show(dragged.from + moved, dragged.to + moved);
  });
  canvas.addEventListener("pointerup", () => { dragged = null; });
  canvas.addEventListener("pointerleave", () => { hint.style.display = "none"; });
  canvas.addEventListener("keydown", (event) => {
    const step = (to - from) / 8;
    if (event.key === "ArrowLeft") show(from - step, to - step);
    else if (event.key === "ArrowRight") show(from + step, to + step);
    else if (event.key === "+") zoom(0.7, (from + to) / 2);
    else if (event.key === "-") zoom(1.4, (from + to) / 2);
    else return;
    event.preventDefault();
  });
  // The last step of a kind: the first one is still warming up.
  function goTo(kind) {
    const steps = lanes[0].spans.filter((span) => names[span[2]].endsWith(kind));
    const last = steps[steps.length - 1];
    if (last) show(last[0], last[0] + last[1]);
  }
  document.getElementById("whole").onclick = () => show(0, end);
  document.getElementById("full").onclick = () => goTo(" full");
  document.getElementById("predicted").onclick = () => goTo(" predicted");
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
