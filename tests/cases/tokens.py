"""What Hugging Face's tokenizers makes of texts: tokens.py TOKENIZER MAX_TOKENS < [text, ...] > [[id, ...], ...]"""

import json
import sys

import tokenizers

path, max_tokens = sys.argv[1:]
tokenizer = tokenizers.Tokenizer.from_file(path)
tokenizer.no_padding()
tokenizer.enable_truncation(int(max_tokens))
json.dump([tokenizer.encode(text).ids for text in json.load(sys.stdin)], sys.stdout)
