"""What is composed and when it acts: specs, schedules, and the pipeline built for a decoder."""
