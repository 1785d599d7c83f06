"""What HTML pages share: the look, pictures inside the page, boxes drawn over them. Knows no data formats."""
