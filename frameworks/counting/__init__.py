"""What each adapter counts the operations of a call with, see measurement.operations."""
