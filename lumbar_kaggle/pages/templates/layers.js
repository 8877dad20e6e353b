// What is drawn over a slice: letters, scale, lines, and the layers of what the models found and saw.
// Points further from the slice than the first are not shown, further than the second they are dashed.
const FAR_MM = 6;
const NEAR_MM = 3;
const BARS_MM = [100, 50, 20, 10, 5, 2, 1];
// Of heat from little to much, as in the pictures below.
const HEAT = [
  [87, 16, 110],
  [188, 55, 84],
  [249, 142, 9],
  [252, 255, 164],
];

const layer = (name) => document.getElementById(`layer-${name}`).value / 100;

function drawLayers(panel, state) {
  const { svg, side, slice, series } = panel;
  const add = (name, attributes, text = "", parent = svg) => {
    const node = document.createElementNS(svg.namespaceURI, name);
    Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
    node.textContent = text;
    return parent.appendChild(node);
  };
  const project = (point) => panel.toView(slice.toPixel(point));
  const line = (kind, [x1, y1], [x2, y2]) => add("line", { class: kind, x1, y1, x2, y2 });
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${side} ${side}`);

  const mine = state.looks.filter((look) => look.series === panel.number && look.slices.includes(panel.index));
  if (state.chosen !== null && layer("heat"))
    mine
      .filter((look) => look.target === state.chosen)
      .forEach((look) => drawHeat(look, look.heat[look.slices.indexOf(panel.index)], project, add));
  if (layer("frames"))
    mine
      .filter((look) => state.chosen === null || look.target === state.chosen)
      .forEach((look) =>
        add("polygon", {
          class: "frame",
          opacity: layer("frames"),
          points: look.corners.map((corner) => project(corner).join()).join(" "),
        }),
      );
  if (layer("points"))
    state.points
      .filter((one) => one.frame === series.frame)
      .forEach((one) => {
        const pixel = slice.toPixel(one.point),
          far = Math.abs(pixel.distance);
        if (far > FAR_MM || !slice.holds(pixel)) return;
        const [cx, cy] = panel.toView(pixel),
          group = add("g", { opacity: layer("points") });
        const ring = add("circle", { class: far > NEAR_MM ? "ring far" : "ring", cx, cy, r: 5 }, "", group);
        add("title", {}, `${one.words}, ${far.toFixed(1)} mm from this slice`, ring);
        // Across the body the points lie too close for words.
        if (far <= NEAR_MM && (Math.abs(slice.normal[0]) > 0.7 || one.place === "canal"))
          add("text", { x: cx + 9, y: cy + 4 }, one.name, group);
      });

  const { active, cross } = state;
  if (document.getElementById("lines").checked && active && active !== panel && active.series.frame === series.frame) {
    const ends = slice.cut(active.slice);
    if (ends) line("line", ...ends.map(project));
  }
  if (cross && cross.frame === series.frame) {
    const [x, y] = project(cross.point),
      mm = Math.abs(slice.toPixel(cross.point).distance);
    const kind = mm > FAR_MM ? "cross far" : "cross";
    svg.dataset.cross = `${x} ${y}`;
    for (const step of [-1, 1]) {
      line(kind, [x + 4 * step, y], [x + 14 * step, y]);
      line(kind, [x, y + 4 * step], [x, y + 14 * step]);
    }
    if (mm > FAR_MM) add("text", { x: x + 6, y: y + 18 }, `${mm.toFixed(0)} mm from here`);
  }

  const [left, right, top, bottom] = slice.letters,
    middle = side / 2;
  [
    [left, 6, middle, "start"],
    [right, side - 6, middle, "end"],
    [top, middle, 16, "middle"],
    [bottom, middle, side - 8, "middle"],
  ].forEach(([text, x, y, anchor]) => add("text", { x, y, "text-anchor": anchor }, text));
  if (slice.measured) {
    const pxPerMm = panel.size[0] / (slice.columns * slice.columnMm),
      mm = BARS_MM.find((one) => one * pxPerMm < side / 3) ?? 1;
    line("bar", [10, side - 10], [10 + mm * pxPerMm, side - 10]);
    add("text", { x: 10, y: side - 16 }, `${mm} mm`);
  }
}

// A crop's cells as they are, each in its place of the slice, whichever way the crop was turned or mirrored.
function drawHeat(look, cells, project, add) {
  const [first, across, , down] = look.corners.map(project),
    rows = cells.length,
    columns = cells[0].length;
  const [a, b] = [0, 1].map((k) => (across[k] - first[k]) / columns),
    [c, d] = [0, 1].map((k) => (down[k] - first[k]) / rows);
  const group = add("g", { class: "heat", opacity: layer("heat"), transform: `matrix(${[a, b, c, d, ...first]})` });
  cells.forEach((row, y) =>
    row.forEach((value, x) => {
      const fill = `rgb(${HEAT[Math.min(HEAT.length - 1, Math.floor((value / 256) * HEAT.length))]})`;
      if (value)
        add(
          "rect",
          { x, y, width: 1, height: 1, fill, "fill-opacity": (0.25 + (0.75 * value) / 255).toFixed(2) },
          "",
          group,
        );
    }),
  );
}

// The attention paid to each slice, below the panel's slider.
function drawAttention(panel, state) {
  const shares = new Map();
  state.looks
    .filter((look) => look.series === panel.number && (state.chosen === null || look.target === state.chosen))
    .forEach((look) =>
      look.slices.forEach((slice, k) => shares.set(slice, Math.max(look.attention[k], shares.get(slice) ?? 0))),
    );
  const greatest = Math.max(...shares.values()) || 1;
  panel.root.querySelector(".marks").replaceChildren(
    ...[...shares].map(([slice, share]) => {
      const mark = document.createElement("i");
      mark.style.left = `${(100 * slice) / Math.max(1, panel.slices.length - 1)}%`;
      mark.style.setProperty("--share", (share / greatest).toFixed(2));
      return mark;
    }),
  );
}
