// A picture of cells in columns and rows, one of which is framed: see __init__.py.

export default function ({ data, parentElement, setTriggerValue }) {
  const find = (name) => parentElement.querySelector(name);
  const picture = find(".picture");
  const frames = { chosen: find(".chosen"), here: find(".here") };
  const said = find(".said");
  const columns = data.heights.length;
  const rows = Math.max(...data.heights);
  // width and height of a cell with the gap after it, as shares of the picture
  const step = [(1 + data.gap / data.width) / columns, (1 + data.gap / data.height) / rows];
  const size = [step[0] - data.gap / data.width, step[1] - data.gap / data.height];
  const percent = (share) => `${100 * share}%`;
  let chosen = data.chosen;
  let here = picture.here ?? null; // a rerun must not take it from under the pointer

  function numbered(name, count, side, at) {
    const place = find(name);
    place.replaceChildren(
      ...Array.from({ length: data.titles ? count : 0 }, (_, i) => {
        const number = document.createElement("span");
        number.textContent = i;
        number.style[side] = percent(i * step[at] + size[at] / 2);
        return number;
      }),
    );
  }

  function mark() {
    const signs = data.marks.flatMap((column, x) => column.map((sign, y) => [sign, x, y]));
    find(".marks").replaceChildren(
      ...signs
        .filter(([sign]) => sign)
        .map(([sign, x, y]) => {
          const shown = document.createElement("span");
          shown.textContent = sign;
          shown.style.left = percent(x * step[0] + size[0] / 2);
          shown.style.top = percent(y * step[1] + size[1] / 2);
          return shown;
        }),
    );
  }

  function frame(name, cell) {
    const shown = frames[name];
    shown.hidden = !cell || !(cell[1] < data.heights[cell[0]]);
    if (shown.hidden) return;
    shown.style.left = percent(cell[0] * step[0]);
    shown.style.top = percent(cell[1] * step[1]);
    shown.style.width = percent(size[0]);
    shown.style.height = percent(size[1]);
  }

  function move(cell) {
    here = picture.here = cell;
    frame("here", cell);
    said.hidden = !cell;
    if (!cell) return;
    const told = data.told[cell[0]]?.[cell[1]];
    said.textContent =
      data.label
        .replace("{column}", cell[0])
        .replace("{row}", cell[1])
        .replace("{number}", cell[1] * columns + cell[0]) + (told ? `: ${told}` : "");
    const [x, y] = [(cell[0] + 0.5) / columns, cell[1] * step[1]];
    const above = cell[1] > 0;
    said.style.left = percent(x);
    said.style.top = percent(above ? y : y + size[1]);
    // never beyond the sides of the picture
    said.style.transform = `translate(-${percent(x)}, ${above ? "calc(-100% - 4px)" : "4px"})`;
  }

  function pick(cell) {
    if (!cell) return;
    chosen = cell;
    frame("chosen", cell); // at once, as the server takes a while to answer
    setTriggerValue("picked", cell);
  }

  function under(event) {
    const box = picture.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / box.width / step[0]);
    const row = Math.floor((event.clientY - box.top) / box.height / step[1]);
    return row >= 0 && row < (data.heights[column] ?? 0) ? [column, row] : null;
  }

  const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function onward([column, row], [right, down]) {
    let next = column + right;
    while (data.heights[next] === 0) next += right; // columns without cells are passed over
    if (next < 0 || next >= columns) next = column;
    return [next, Math.min(Math.max(row + down, 0), data.heights[next] - 1)];
  }

  const first = () => [data.heights.findIndex((height) => height > 0), 0];

  const same = (a, b) => a === b || (a && b && a[0] === b[0] && a[1] === b[1]);

  picture.onpointermove = (event) => {
    const cell = under(event);
    if (!same(cell, here)) move(cell);
  };
  picture.onpointerleave = () => move(null);
  picture.onclick = (event) => pick(under(event));
  picture.onfocus = () => picture.matches(":focus-visible") && move(here ?? chosen ?? first());
  picture.onblur = () => move(null);
  picture.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in WAYS) move(onward(here ?? chosen ?? first(), WAYS[event.key]));
    else if (event.key === "Enter" || event.key === " ") pick(here ?? chosen);
    else return;
    event.preventDefault(); // keep the page from scrolling
  };

  const image = find("img");
  if (image.src !== data.source) image.src = data.source;
  image.width = data.width;
  image.height = data.height;
  picture.setAttribute("aria-label", data.alt);
  find(".picker").style.setProperty("--wide", `${data.width}px`);
  find(".picker").style.setProperty("--columns", columns);
  find(".picker").classList.toggle("numbered", Boolean(data.titles));
  find(".top").textContent = data.titles?.[0] ?? "";
  find(".left").textContent = data.titles?.[1] ?? "";
  numbered(".columns", columns, "left", 0);
  numbered(".rows", rows, "top", 1);
  mark();
  frame("chosen", chosen);
  move(here && here[1] < (data.heights[here[0]] ?? 0) ? here : null);
}
