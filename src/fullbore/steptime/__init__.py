"""What a step costs: from its composition, the layout, the formats and the server, with an interval."""
