"""Names that would do more than be read, were they taken for Markdown or HTML."""

from __future__ import annotations

# No folder or file can have a slash in its name.
HOSTILE_FILE = "![x](a.png) :red[x] $x$ <img src=x onerror=a> **x**\n# x"
HOSTILE = (
    HOSTILE_FILE,
    "![x](https://example.org/a.png)",
    "[x](https://example.org) [x]: https://example.org",
    "<img src='https://example.org/a.png' onerror=alert(1)>",
    "<a href='https://example.org'>x</a> &lt;b&gt; &#42;",
    "https://example.org/a.png www.example.org HTTP://EXAMPLE.ORG",
    "<https://example.org> someone@example.org mailto:someone@example.org",
    ":red[x] :red-background[x] :blue-badge[x] :small[x] :red :help[x] :color[x]{foreground=red}",
    ":smile: :+1: :material/home: :streamlit: :material_home:",
    "$x$ $$y$$ `z` *a* **b** _c_ __d__ ~~e~~ ~f~ \\* \\",
    "a -> b <- c <-> d -- e >= f <= g ~= h",
    "# x",
    "- x",
    "+ x",
    "* x",
    "1. x",
    "1) x",
    "> x",
    "===",
    "---",
    "::: x",
    "::name[x]",
    "| a | b |",
    "[ ] x [^1]",
    "```python",
    "~~~",
)
