"""Takes named members out of a wheel (zip) or an npm package (tar.gz), and nothing else.

    unpack.py --out DIR archive member ...

A member lands at DIR/<its last path component>. Only regular files; a name that is not in the archive is an error.
"""

import argparse
import os
import shutil
import tarfile
import zipfile


def opener(archive):
    """name -> readable file object."""
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive).open
    tar = tarfile.open(archive)

    def open_member(name):
        file = tar.extractfile(name)
        if file is None:
            raise KeyError(f"{name} is not a regular file")
        return file

    return open_member


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("archive")
    args.add_argument("members", nargs="+")
    args = args.parse_args()
    os.makedirs(args.out, exist_ok=True)
    open_member = opener(args.archive)
    for member in args.members:
        try:
            source = open_member(member)
        except KeyError as error:
            raise SystemExit(f"{args.archive}: {error}") from None
        with source, open(os.path.join(args.out, os.path.basename(member)), "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


if __name__ == "__main__":
    main()
