def write_pages(results):
    pass
