"""Published cryptography over libsodium: signatures and a verifiable random function. Unaudited."""
