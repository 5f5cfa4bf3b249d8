"""What the life events pipeline is called, and what it is made of."""

PIPELINE = "life_events"

DATASET = "source_file"
"""The one kind of file: GRO's daily extract of death registrations."""

EVENT_TYPE = "GRO_DEATH_NOTIFICATION"
"""Under what the platform knows its events."""

PUBLISH = "life_events.publish"
"""Topic of the outbox: events that the platform is yet to be told of. Its keys are record keys in hex, the ids of the events."""

EVENT_EXPIRED = "event_expired"
"""Code of messages that nobody was told while there was time: their events have expired."""

NOTIFY = "life_events.notify."
"""Topics of the outbox, each with an acquirer's name behind it: events whose DeathNotificationSet goes to that acquirer's queue."""
