"""What a trial and a sweep are on disk, and how their settings are made: run folder, plan, lock, reader, settings, flags."""
