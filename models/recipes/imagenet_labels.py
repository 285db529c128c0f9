"""labels.txt of an ImageNet-1k classifier: line n (from 0) names class n.

    imagenet_labels.py --out labels.txt imagenet1k_label_to_names.json

The source lists WordNet synonyms ("tabby, tabby cat"); the first is kept, and all of them where two classes share it.
"""

import argparse
import collections
import json


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("names")
    args = args.parse_args()
    with open(args.names, encoding="utf-8") as file:
        names = json.load(file)
    full = [names[str(index)] for index in range(1000)]
    if len(names) != 1000:
        raise SystemExit(f"{args.names} has {len(names)} classes, not 1000")
    first = [name.split(",")[0].strip() for name in full]
    shared = {name for name, count in collections.Counter(first).items() if count > 1}
    with open(args.out, "w", encoding="utf-8", newline="\n") as file:
        file.writelines((whole if short in shared else short) + "\n" for short, whole in zip(first, full))


if __name__ == "__main__":
    main()
