"""Makes an API key: prints the key, for the client, and its digest, for the server's API_KEYS_SHA256.

The server stores only the digest. To rotate keys, add the new digest, let clients switch, and remove the old one. A
plain SHA-256 is enough: the key has 256 random bits, so it can't be guessed.

Usage: uv run 6.production/new_api_key.py
"""

import hashlib
import secrets

if __name__ == "__main__":
    key = secrets.token_urlsafe(32)
    print(f"key, for the client:      {key}")
    print(f"digest, for the server:   {hashlib.sha256(key.encode()).hexdigest()}")
