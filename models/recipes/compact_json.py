"""Writes JSON that reads well in a diff: one key a line, lists of plain values on one line."""

import json
import re


def dump(path, value):
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s*([^][{}]*?)\s*\]", lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text + "\n")
