// A line of text that follows the sliders of the Prune page: see following.py.

const slider = (key) => document.querySelector(`.st-key-${key} input[type=range]`);
const EVENTS = ["pointerdown", "pointermove", "pointerup", "keydown", "keyup"];

export default function ({ data, parentElement }) {
  const said = parentElement.querySelector(".following");
  const at = {}; // where each slider stood when the server was told last
  for (const key of Object.keys(data.lines)) at[key] = slider(key)?.value;

  const percent = (now, before) => {
    const change = (100 * (now - before)) / before;
    const size = Math.abs(change).toFixed(1);
    return size === "0.0" ? "as before" : `${change > 0 ? "+" : "−"}${size} %`;
  };

  function say([params, gmacs]) {
    const [wasParams, wasGmacs] = data.dense;
    said.textContent =
      `${(params / 1e6).toFixed(2)} M parameters (${percent(params, wasParams)}) · ` +
      `${gmacs.toFixed(3)} GMACs (${percent(gmacs, wasGmacs)})`;
  }

  // on the line between the two known points beside a value
  function between(line, value) {
    const after = line.findIndex((point) => point[0] >= value);
    if (after < 0) return null;
    const [b, a] = [line[after], line[Math.max(after - 1, 0)]];
    const share = b[0] === a[0] ? 0 : (value - a[0]) / (b[0] - a[0]);
    return [1, 2].map((i) => a[i] + share * (b[i] - a[i]));
  }

  let told = "";
  let waiting = 0;
  function follow() {
    const moved = Object.keys(data.lines).find((key) => slider(key) && slider(key).value !== at[key]);
    const place = moved ? `${moved} ${slider(moved).value}` : "";
    if (place === told) return;
    told = place;
    const found = moved && between(data.lines[moved], Number(slider(moved).value));
    say(found || data.now);
  }

  const soon = () => {
    if (!parentElement.isConnected) return stop();
    clearTimeout(waiting);
    waiting = setTimeout(follow, 30); // the slider takes a moment to move
  };
  const stop = () => EVENTS.forEach((name) => document.removeEventListener(name, soon, true));

  parentElement.stop?.(); // a rerun must not leave listeners behind
  parentElement.stop = stop;
  EVENTS.forEach((name) => document.addEventListener(name, soon, true));
  say(data.now);
  return stop;
}
