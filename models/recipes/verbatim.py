"""A file of a package as it is.

    verbatim.py --out FILE SOURCE

An ONNX file is checked: complete, and its operators and shapes make sense.
"""

import argparse
import shutil

import onnx


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("source")
    args = args.parse_args()
    if args.out.endswith(".onnx"):
        onnx.checker.check_model(args.source, full_check=True)
    shutil.copyfile(args.source, args.out)


if __name__ == "__main__":
    main()
