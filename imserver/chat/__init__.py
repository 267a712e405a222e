"""`imserver chat`: a terminal client on `imserver.client`.

What others have sent is shown only through sanitize.py. Where to read:

    sanitize.py   text of others -> text that a terminal shows and does not obey
    model.py      conversations and messages as they are shown, without I/O
    session.py    keeps the model true to the server
    doing.py      what a user does: find, open, page back, send, read, type, files
    commands.py   `/help` and the others, by name; message_commands.py, group_commands.py, friend_commands.py; words.py
    tokens.py     the file that --remember keeps
    saving.py     where a received file may go
    plain.py      lines in, lines out
    screen.py     the full screen, on prompt_toolkit (the extra `imserver[chat]`); drawing.py and rows.py are what it shows
    guest.py      Trio inside the asyncio loop that prompt_toolkit wants
    app.py        logs in, and runs one of the two
"""
