"""Who is who: passwords, tokens, the secret that signs them, limits on guessing. The commands are a plugin's.

* passwords.py: rules, and argon2id in worker threads; common_passwords.py has those that nobody may choose
* secret.py: the file with the server's secret
* tokens.py: access tokens (JWT) and refresh tokens
* throttle.py: GCRA, and how many guesses an account and an address may make

A plugin gets all of it by `from imserver.plugin import auth`.
"""

from imserver.auth.passwords import PasswordHasher, Verdict, check_new_password, hash_password
from imserver.auth.secret import load_secret
from imserver.auth.throttle import AddressSet, Attempt, Gcra, GuessRules, GuessThrottle, address_key
from imserver.auth.tokens import (
    AccessTokens,
    Claims,
    RefreshToken,
    new_refresh_token,
    read_refresh_token,
    token_hash,
)

__all__ = [
    "AccessTokens",
    "AddressSet",
    "Attempt",
    "Claims",
    "Gcra",
    "GuessRules",
    "GuessThrottle",
    "PasswordHasher",
    "RefreshToken",
    "Verdict",
    "address_key",
    "check_new_password",
    "hash_password",
    "load_secret",
    "new_refresh_token",
    "read_refresh_token",
    "token_hash",
]
