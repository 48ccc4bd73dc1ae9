"""`asr serve`: one recognizer for every client, over HTTP, WebSocket and Wyoming."""
