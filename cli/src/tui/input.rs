//! Keys to actions.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Action, Model};

/// What a key means now.
pub fn action(model: &Model, key: KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Ignore;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Action::Quit;
    }
    if model.typing {
        return match key.code {
            KeyCode::Char(c) => Action::Type(c),
            KeyCode::Backspace => Action::Backspace,
            KeyCode::Enter => Action::EndFilter,
            KeyCode::Esc => Action::Escape,
            _ => Action::Ignore,
        };
    }
    match key.code {
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Char('?') => Action::Help,
        KeyCode::Char('/') => Action::BeginFilter,
        KeyCode::Char(c @ '1'..='9') => Action::Tab(c as usize - '1' as usize),
        KeyCode::Char('j') | KeyCode::Down => Action::Down,
        KeyCode::Char('k') | KeyCode::Up => Action::Up,
        KeyCode::Tab => Action::NextTab,
        KeyCode::Esc => Action::Escape,
        _ => Action::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_into_the_filter_only_while_it_is_typed() {
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        let mut model = Model::default();
        assert_eq!(action(&model, key(KeyCode::Char('q'))), Action::Quit);
        assert_eq!(action(&model, key(KeyCode::Tab)), Action::NextTab);
        assert_eq!(action(&model, key(KeyCode::Char('2'))), Action::Tab(1));
        model.typing = true;
        assert_eq!(action(&model, key(KeyCode::Char('q'))), Action::Type('q'));
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(action(&model, control), Action::Quit);
    }
}
