"""Whether something answers at a URL: a health check for images that have no curl.

    python answers.py http://127.0.0.1:8080/api/v2/version

Exit code 0 where it answers with success, 1 where not. Standard library only.
"""

import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 8


def main() -> int:
    """The exit code."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(sys.argv[1], timeout=TIMEOUT_SECONDS).close()
    except (OSError, urllib.error.URLError) as error:
        sys.stderr.write(f"{sys.argv[1]}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
