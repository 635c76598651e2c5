// Keys that a page listens to, and the list of them: see keys.py.

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Shift: "Shift" };
// what has a use of its own for arrow keys or for typed letters
const BUSY =
  "input, textarea, select, dialog, [contenteditable=true], [role=application], [role=tab], [role=radio], " +
  "[role=slider], [role=listbox], [role=combobox], [role=option], [role=menu], [role=dialog], [role=grid], canvas";

export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector("dialog");
  const open = parentElement.querySelector(".open");

  parentElement.querySelector("tbody").replaceChildren(
    ...Object.entries(data.words).map(([key, words]) => {
      const row = document.createElement("tr");
      const [keys, said] = [document.createElement("th"), document.createElement("td")];
      for (const part of key.split("+")) {
        const sign = document.createElement("kbd");
        sign.textContent = SIGNS[part] ?? part;
        keys.append(sign, " ");
      }
      said.textContent = words;
      row.append(keys, said);
      return row;
    }),
  );
  open.onclick = () => list.showModal();

  function press(event) {
    if (!parentElement.isConnected) return document.removeEventListener("keydown", press);
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const busy = event.composedPath().some((node) => node instanceof Element && node.matches(BUSY));
    if (busy) return;
    if (event.key === "?") {
      list.showModal();
    } else {
      const key = (event.shiftKey ? "Shift+" : "") + event.key;
      if (!(key in data.words)) return;
      setTriggerValue("pressed", key);
    }
    event.preventDefault(); // keep the page from scrolling
  }

  // a rerun must not leave a second listener behind
  if (parentElement.press) document.removeEventListener("keydown", parentElement.press);
  parentElement.press = press;
  document.addEventListener("keydown", press);
  return () => document.removeEventListener("keydown", press);
}
