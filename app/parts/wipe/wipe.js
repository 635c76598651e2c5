// Two pictures with a line between them: see wipe.py.

export default function ({ data, parentElement }) {
  const find = (name) => parentElement.querySelector(name);
  const wipe = find(".wipe");
  const slider = find("input");

  for (const name of ["before", "after"]) {
    const image = find(`.${name}`);
    if (image.src !== data[name]) image.src = data[name];
  }
  find(".left").textContent = data.names[0];
  find(".right").textContent = data.names[1];
  wipe.style.setProperty("--shape", `${data.width} / ${data.height}`);
  slider.setAttribute("aria-label", data.alt);

  function move() {
    wipe.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % ${data.names[0]}`);
  }
  slider.oninput = move;
  move(); // a rerun leaves the line where it was
}
