from launches.interpreted import call_at_once

call_at_once()
