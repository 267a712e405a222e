"""`imserver backup` and `imserver restore`: a whole copy of a server's data in one folder, and back.

A backup is a folder, mode 700:

    manifest.json    what it is: version, migrations, counts, time; and the SHA-256 of the next file
    SHA256SUMS       of every other file, as `sha256sum -c` reads it
    imserver.db      the database, as of one instant
    secret           `auth.secret_file`, unless it was left out
    files/ab/abc…    the files that this database names

It has its name only when it is whole and on the disk: until then it is a hidden folder beside. So there is no half backup
that looks like one.
"""
