"""Makes an API key: prints the key, for the client, and its digest, for the server's API_KEYS_SHA256.

The server never sees the key but in requests. To rotate keys, add the new digest, move the clients over, and take the
old one away. A plain SHA-256 is right here: the key is 256 random bits, so there is nothing to guess.

Usage: uv run 6.production/new_api_key.py
"""

import hashlib
import secrets

if __name__ == "__main__":
    key = secrets.token_urlsafe(32)
    print(f"key, for the client:      {key}")
    print(f"digest, for the server:   {hashlib.sha256(key.encode()).hexdigest()}")
