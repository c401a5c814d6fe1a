"""The demo in a browser: pictures in, answers out, in three pages made with Streamlit (extra `[app]`).

What is computed and what is checked lies in modules that know nothing of Streamlit: `uploads`, `answers`, `shelf`,
`training` and `markup`. `pages` puts it on the screen, `script` is what Streamlit runs for each visitor, and `server`
starts it all.
"""
