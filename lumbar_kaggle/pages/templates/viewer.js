// A series in its panel: slices, window, zoom. Patient frame and pixels are those of lumbar_kaggle.dicom.geometry.
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const along = (start, ...steps) => start.map((value, k) => steps.reduce((sum, [way, mm]) => sum + way[k] * mm, value));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

class Slice {
  constructor(stack, { instance, position }) {
    Object.assign(this, stack, { instance, position });
    [this.rowMm, this.columnMm] = stack.spacing;
    this.across = stack.orientation.slice(0, 3);
    this.down = stack.orientation.slice(3);
    const [a, b, c] = this.across,
      [d, e, f] = this.down;
    this.normal = [b * f - c * e, c * d - a * f, a * e - b * d];
  }

  toPatient(column, row) {
    return along(this.position, [this.across, column * this.columnMm], [this.down, row * this.rowMm]);
  }

  toPixel(point) {
    const offset = along(point, [this.position, -1]);
    return {
      column: dot(offset, this.across) / this.columnMm,
      row: dot(offset, this.down) / this.rowMm,
      distance: dot(offset, this.normal),
    };
  }

  holds({ column, row }) {
    return column >= -0.5 && row >= -0.5 && column < this.columns - 0.5 && row < this.rows - 0.5;
  }

  middle() {
    return this.toPatient((this.columns - 1) / 2, (this.rows - 1) / 2);
  }

  // The ends, LPS mm, of the line in which another slice's picture cuts this one's plane; null where it does not.
  cut(other) {
    if (Math.abs(dot(this.normal, other.normal)) > 0.95) return null;
    const [right, bottom] = [other.columns - 0.5, other.rows - 0.5];
    const corners = [
      [-0.5, -0.5],
      [right, -0.5],
      [right, bottom],
      [-0.5, bottom],
    ].map(([column, row]) => other.toPatient(column, row));
    const ends = [];
    corners.forEach((from, k) => {
      const to = corners[(k + 1) % 4],
        [before, after] = [from, to].map((corner) => this.toPixel(corner).distance);
      if (before < 0 !== after < 0) ends.push(along(from, [along(to, [from, -1]), before / (before - after)]));
    });
    return ends.length === 2 ? ends : null;
  }
}

const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

class Panel {
  constructor(root, series, pictures) {
    Object.assign(this, { root, series, pictures, decoded: [], zoom: 1, shift: [0, 0], index: series.start });
    this.slices = series.slices.map((slice) => new Slice(series.stacks[slice.stack], slice));
    this.view = root.querySelector(".view");
    [this.still, this.canvas, this.svg] = this.view.children;
    this.slider = root.querySelector("input[type=range]");
    this.said = root.querySelector("output");
    this.window = [...series.window];
  }

  get slice() {
    return this.slices[this.index];
  }

  // The side of the square view, px of the screen.
  get side() {
    return this.view.clientWidth || 1;
  }

  // Width and height of the whole slice in px of the screen.
  get size() {
    const fit = this.zoom * this.side,
      { aspect } = this.slice;
    return [fit * Math.min(1, 1 / aspect), fit * Math.min(1, aspect)];
  }

  toView({ column, row }) {
    const [width, height] = this.size,
      { columns, rows } = this.slice;
    return [
      this.side * (0.5 + this.shift[0]) + ((column + 0.5) / columns - 0.5) * width,
      this.side * (0.5 + this.shift[1]) + ((row + 0.5) / rows - 0.5) * height,
    ];
  }

  toPixel([x, y]) {
    const [width, height] = this.size,
      { columns, rows } = this.slice;
    return {
      column: ((x - this.side * (0.5 + this.shift[0])) / width + 0.5) * columns - 0.5,
      row: ((y - this.side * (0.5 + this.shift[1])) / height + 0.5) * rows - 0.5,
    };
  }

  async decode(index) {
    const image = new Image();
    image.src = this.pictures[index] ? `data:image/jpeg;base64,${this.pictures[index]}` : this.still.src;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    Object.assign(scratch.canvas, { width, height });
    scratch.drawImage(image, 0, 0);
    const colours = scratch.getImageData(0, 0, width, height).data;
    return { width, height, grey: Uint8Array.from({ length: width * height }, (_, k) => colours[4 * k]) };
  }

  picture(index) {
    return (this.decoded[index] ??= this.decode(index));
  }

  // Draw the slice that is wanted by the time that its picture is there, and prepare the next ones.
  async draw() {
    const index = this.index,
      { width, height, grey } = await this.picture(index);
    if (index !== this.index) return;
    const [black, white] = this.window,
      {
        window: [lowest],
        top,
      } = this.series;
    const shades = Uint32Array.from({ length: 256 }, (_, k) => {
      const shade = clamp(
        Math.round((255 * (lowest + (k / 255) * (top - lowest) - black)) / Math.max(white - black, 1e-6)),
        0,
        255,
      );
      return (255 << 24) | (shade << 16) | (shade << 8) | shade;
    });
    const pixels = new Uint32Array(grey.length);
    for (let k = 0; k < grey.length; k++) pixels[k] = shades[grey[k]];
    Object.assign(this.canvas, { width, height, hidden: false });
    this.canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
    this.still.hidden = true;
    this.view.dataset.drawn = index + 1;
    this.place();
    for (const step of [1, -1, 2, -2]) if (this.slices[index + step]) this.picture(index + step);
  }

  place() {
    const [left, top] = this.toView({ column: -0.5, row: -0.5 }),
      [width, height] = this.size;
    Object.entries({ left, top, width, height }).forEach(
      ([name, px]) => (this.canvas.style[name] = `${(100 * px) / this.side}%`),
    );
  }

  show(index) {
    this.index = clamp(index, 0, this.slices.length - 1);
    this.slider.value = this.index + 1;
    this.say();
    this.draw();
  }

  say() {
    const [black, white] = this.window,
      { instance, normal } = this.slice,
      sizes = normal.map(Math.abs);
    const parts = [
      `Slice ${this.index + 1} of ${this.slices.length}`,
      instance === null ? "no instance number" : `instance ${instance}`,
    ];
    // As on a scanner: how far from its middle, and to which side of the patient.
    const axis = sizes.indexOf(Math.max(...sizes)),
      mm = this.slice.middle()[axis];
    if (!this.series.frame) parts.push(`${(mm < 0 ? "RAF" : "LPH")[axis]} ${Math.abs(mm).toFixed(1)} mm`);
    this.said.textContent = `${parts.join(", ")} · window ${Math.round(white - black)}, level ${Math.round((white + black) / 2)}`;
  }

  setWindow(black, white) {
    this.window = [black, white];
    this.say();
    this.draw();
  }

  // By shares of the models' window.
  preset(low, high) {
    const [black, white] = this.series.window;
    this.setWindow(black + low * (white - black), black + high * (white - black));
  }

  // Zoom about a place of the view, which stays where it is.
  zoomBy(factor, [x, y] = [this.side / 2, this.side / 2]) {
    const pixel = this.toPixel([x, y]);
    this.zoom = clamp(this.zoom * factor, 1, 16);
    const [nowX, nowY] = this.toView(pixel);
    this.moveBy(x - nowX, y - nowY);
  }

  moveBy(dx, dy) {
    const limit = this.zoom / 2;
    this.shift = [dx, dy].map((px, k) => clamp(this.shift[k] + px / this.side, -limit, limit));
    this.place();
  }

  reset() {
    Object.assign(this, { zoom: 1, shift: [0, 0] });
    this.preset(0, 1);
  }

  // The slice nearest to a point of the patient, among those whose picture holds it; -1 where there is none.
  nearest(point) {
    let best = -1,
      least = Infinity;
    this.slices.forEach((slice, k) => {
      const pixel = slice.toPixel(point),
        distance = Math.abs(pixel.distance);
      if (slice.holds(pixel) && distance < least - 1e-6) [best, least] = [k, distance];
    });
    return best;
  }
}
