"""The synchronous client, with local evaluation."""

from segmentd_client.synchronous import client
from segmentd_client.synchronous.local import Local


class Client(client.Client):
    """Every call of a segmentd service, and answers of its own.

    It keeps connections open; close it, or use it in a `with` block. Its arguments are those of AsyncClient.
    """

    def local(self, *, max_age_s: float = 300, most_users: int = 100_000) -> Local:
        """Answers in this process: percentages are computed, members by hand asked for once and kept level.

        It reads all segments now, and follows the feed in a thread until it is closed. While the service
        cannot be reached it answers from its copy for up to `max_age_s`. It keeps the segments of up to
        `most_users` users, those who were asked for last. A term's end reaches it when the feed tells it,
        up to some ten seconds late. Close it before the client.
        """
        return Local(self.segments, self.users, self.feed, max_age_s=max_age_s, most_users=most_users)
