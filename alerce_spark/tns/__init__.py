"""The Transient Name Server: its public objects as a catalogue of the lake, searches, and reports of discoveries."""
