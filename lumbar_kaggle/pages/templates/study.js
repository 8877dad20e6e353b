// The panels together: what moves in one is seen in the others; mouse, touch, keys; the grid of grades.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data"),
  pictures = read("pictures"),
  viewer = document.getElementById("viewer");
const panels = [...document.querySelectorAll(".panel:not(.absent)")].map(
  (root, k) => new Panel(root, data.series[k], pictures[k]),
);
const state = { looks: data.looks, points: data.points, active: null, chosen: null, cross: null };
const checked = (id) => document.getElementById(id).checked;
const tool = () => document.querySelector("[name=tool]:checked").value;

function refresh() {
  panels.forEach((panel) => {
    panel.root.classList.toggle("active", panel === state.active);
    drawLayers(panel, state);
  });
}

function scroll(panel, index) {
  panel.show(index);
  state.active = panel;
  const { normal } = panel.slice,
    middle = panel.slice.middle();
  if (checked("together"))
    panels
      .filter(
        (other) =>
          other !== panel &&
          other.series.frame === panel.series.frame &&
          Math.abs(dot(other.slice.normal, normal)) > 0.95,
      )
      .forEach((other) => {
        const distances = other.slices.map((slice) => Math.abs(slice.toPixel(middle).distance)),
          least = Math.min(...distances);
        // Another block of the same plane is not a parallel picture of this one.
        if (least <= FAR_MM) other.show(distances.indexOf(least));
      });
  refresh();
}

// Take all series of the frame to a point of the patient, but not the one that it was pointed at in.
function goTo(point, frame, except = []) {
  state.cross = { point, frame };
  panels
    .filter((panel) => panel.series.frame === frame && !except.includes(panel))
    .forEach((panel) => {
      const index = panel.nearest(point);
      if (index >= 0) panel.show(index);
    });
  refresh();
}

function pointAt(panel, place) {
  state.active = panel;
  const { column, row } = panel.toPixel(place);
  goTo(panel.slice.toPatient(column, row), panel.series.frame, [panel]);
}

// Where the point lies in the view; the middle of the view where there is none, or it is of another frame.
function crossOf(panel) {
  const { cross } = state,
    here = cross && cross.frame === panel.series.frame;
  return here ? panel.toView(panel.slice.toPixel(cross.point)) : [panel.side / 2, panel.side / 2];
}

function drag(panel, kind, dx, dy) {
  state.active = panel;
  if (kind === "pan") panel.moveBy(dx, dy);
  else if (kind === "zoom") panel.zoomBy(Math.exp(-dy / 150));
  else if (kind === "cross")
    return pointAt(
      panel,
      crossOf(panel).map((px, k) => px + [dx, dy][k]),
    );
  else if (kind === "window") {
    const [black, white] = panel.window,
      [lowest, highest] = panel.series.window,
      range = highest - lowest || 1;
    const width = Math.max((white - black) * Math.exp((2 * dx) / panel.side), range / 100);
    const level = clamp((white + black) / 2 + (range * dy) / panel.side, lowest - range, highest + range);
    panel.setWindow(level - width / 2, level + width / 2);
  } else {
    panel.rest = (panel.rest ?? 0) + (dx + dy) / clamp(panel.side / panel.slices.length, 4, 24);
    const slices = Math.trunc(panel.rest);
    panel.rest -= slices;
    if (slices) return scroll(panel, panel.index + slices);
  }
  refresh();
}

function choose(button) {
  const buttons = [...document.querySelectorAll("[data-target]")],
    target = Number(button.dataset.target);
  state.chosen = state.chosen === target ? null : target;
  buttons.forEach((one) => one.setAttribute("aria-pressed", one === button && state.chosen !== null));
  const said = document.getElementById("chosen"),
    looks = data.looks.filter((look) => look.target === state.chosen);
  panels.forEach((panel) => drawAttention(panel, state));
  said.textContent = "";
  if (state.chosen === null) return refresh();
  const frames = document.getElementById("layer-frames");
  if (frames.value === "0") frames.value = 70;
  const parts = looks.map((look) => {
    const best = look.slices[look.attention.indexOf(Math.max(...look.attention))],
      panel = panels[look.series];
    const slices = look.slices
      .map((slice) => slice + 1)
      .sort((a, b) => a - b)
      .join(", ");
    const several = look.slices.length > 1;
    const most = several ? `, most attention to ${best + 1}` : "";
    return {
      look,
      best,
      panel,
      words: `${panel.view.getAttribute("aria-label")}, slice${several ? "s" : ""} ${slices} (${look.place}${most})`,
    };
  });
  // Without a picture of its own: the point of its level.
  const point = data.points.find((one) => button.dataset.level === one.level);
  const [first] = parts,
    moved = parts.map(({ panel }) => panel);
  if (first) state.active = first.panel;
  if (first?.look.middle) goTo(first.look.middle, first.panel.series.frame, moved);
  else if (!first && point) goTo(point.point, point.frame);
  parts.forEach(({ panel, best }) => panel.show(best));
  refresh();
  const whence = parts.length ? `graded from ${parts.map(({ words }) => words).join("; ")}` : "no slice was looked at";
  said.textContent = `${button.dataset.words}: ${whence}.`;
  (first?.panel.root ?? viewer).scrollIntoView({ block: "nearest" });
}

function listen(panel) {
  const { view } = panel,
    pointers = new Map(),
    place = ({ clientX, clientY }) => {
      const { left, top } = view.getBoundingClientRect();
      return [clientX - left, clientY - top];
    };
  let dragged = false,
    wheeled = 0;
  panel.slider.addEventListener("input", () => scroll(panel, panel.slider.value - 1));
  panel.root.querySelector(".enlarge").addEventListener("click", ({ currentTarget }) => {
    currentTarget.setAttribute("aria-pressed", panel.root.classList.toggle("large"));
  });
  new ResizeObserver(() => (panel.place(), drawLayers(panel, state))).observe(view);
  view.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (event.ctrlKey) {
        panel.zoomBy(Math.exp(-event.deltaY / 200), place(event));
        return refresh();
      }
      // A notch of a wheel is one slice; a touchpad sends many small steps.
      wheeled = Math.abs(event.deltaY) >= 50 ? Math.sign(event.deltaY) : wheeled + event.deltaY / 30;
      const slices = Math.trunc(wheeled);
      wheeled -= slices;
      if (slices) scroll(panel, panel.index + slices);
    },
    { passive: false },
  );
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    dragged &&= pointers.size > 0;
    pointers.set(event.pointerId, place(event));
  });
  view.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId),
      now = place(event);
    if (!before || (!dragged && Math.hypot(now[0] - before[0], now[1] - before[1]) < 4)) return;
    dragged = true;
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, now);
    if (other) {
      const apart = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]) || 1;
      panel.zoomBy(
        apart(now) / apart(before),
        now.map((px, k) => (px + other[k]) / 2),
      );
      drag(panel, "pan", (now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    } else {
      // A finger that goes up or down moves the page.
      const sideways = tool() === "scroll" && event.pointerType === "touch";
      drag(panel, tool(), now[0] - before[0], sideways ? 0 : now[1] - before[1]);
    }
  });
  view.addEventListener("pointerup", (event) => {
    if (!dragged && pointers.size === 1 && event.button === 0) pointAt(panel, place(event));
  });
  for (const name of ["pointerup", "pointercancel"])
    view.addEventListener(name, ({ pointerId }) => pointers.delete(pointerId));
  view.addEventListener("keydown", (event) => {
    const way = { ArrowUp: [0, -8], ArrowDown: [0, 8], ArrowLeft: [-8, 0], ArrowRight: [8, 0] }[event.key],
      last = panel.slices.length - 1;
    const to =
      { PageUp: panel.index - 5, PageDown: panel.index + 5, Home: 0, End: last }[event.key] ??
      (way && panel.index + Math.sign(way[0] + way[1]));
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (way && event.shiftKey) drag(panel, tool(), ...way);
    else if (to !== undefined) scroll(panel, to);
    else if (event.key === "Enter") pointAt(panel, crossOf(panel));
    else if (event.key === "0") (panel.reset(), refresh());
    else if ("+-".includes(event.key)) (panel.zoomBy(event.key === "+" ? 1.25 : 0.8), refresh());
    else return;
    event.preventDefault();
  });
}

document.documentElement.classList.add("alive");
panels.forEach((panel, k) => {
  panel.number = k;
  listen(panel);
  panel.show(panel.index);
  drawAttention(panel, state);
});
document.querySelectorAll("[data-target]").forEach((button) => button.addEventListener("click", () => choose(button)));
document
  .querySelectorAll("[data-window]")
  .forEach((button) =>
    button.addEventListener("click", () =>
      panels.forEach((panel) => panel.preset(...button.dataset.window.split(" ").map(Number))),
    ),
  );
document.getElementById("reset").addEventListener("click", () => (panels.forEach((panel) => panel.reset()), refresh()));
document.querySelectorAll("#viewer .controls input").forEach((input) =>
  input.addEventListener("input", () => {
    viewer.dataset.tool = tool();
    refresh();
  }),
);
// Fingers swipe through the slices, so that the page can still be moved up and down.
if (matchMedia("(pointer: coarse)").matches) document.querySelector("[value=scroll]").checked = true;
viewer.dataset.tool = tool();
