"""``tollkeeper keys``: the life of a key."""

from tollkeeper.command.keys import changing, ending, importing, making, reading
from tollkeeper.command.limits import GRAMMAR
from tollkeeper.command.options import group

app = group("keys", "Create, read, list, change, rotate, import and revoke keys.")
app.command(epilog=GRAMMAR)(making.create)
app.command()(reading.get)
app.command("list")(reading.list_)
app.command(epilog=f"{changing.RULES}\n{GRAMMAR}")(changing.update)
app.command()(making.rotate)
app.command("end-overlap")(making.end_overlap)
app.command()(changing.disable)
app.command()(changing.enable)
app.command()(ending.revoke)
app.command("import", epilog=importing.FORMAT)(importing.import_)
app.command("report-leaked", epilog=ending.FORMAT)(ending.report_leaked)
